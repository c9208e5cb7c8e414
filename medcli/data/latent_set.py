"""Stored latents as a training set: rows of some layout, drawn anew where moments are stored, and scaled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medcli.data.latent_statistics import NO_STATISTICS, Statistics, normalised
from medcli.data.posterior import draw_latents
from medcli.data.training_set import flip_coins
from medcli.errors import DataError

# Dimension key: N images of the set, B images of a batch, R stored channels (C, or 2 C for moments), C latent channels,
# Y X latent height and width.

SCALE_SAMPLE = 256
"""Images the scale is measured on, evenly spaced."""

STD_RANGE = (0.3, 2.0)
"""Standard deviation of latents a model can learn from. Scaled ones of the Stable Diffusion autoencoder have about 0.7
to 1, unscaled ones 4 to 5, and 0.13 to 0.18 if the factor was applied twice."""


class Content(Enum):
    """Content of stored rows."""

    LATENT = "latent"
    """One sample of the posterior."""
    MEAN_LOG_VARIANCE = "mean and log-variance"
    MEAN_STD = "mean and standard deviation"


class StoredRows(Protocol):
    """Stored rows that can be read in any order."""

    @property
    def name(self) -> str:
        """Folder of the rows."""

    @property
    def shape_RYX(self) -> tuple[int, int, int]:
        """Shape of a row."""

    @property
    def labels_N(self) -> npt.NDArray[np.int64]:
        """(N,) class of each image, from 0."""

    @property
    def has_flips(self) -> bool:
        """True if there are rows of mirrored images."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 that identifies the data."""

    def expect(self, picks: list[int], flips: list[bool]) -> None:
        """Begin to read rows that `read` will be called for, in threads."""

    def read(self, picks: list[int], flips: list[bool]) -> Tensor:
        """(B, R, Y, X) float32 rows, of the mirrored image where `flips` says so.

        Raises:
            DataError: If some can't be read: how many, and the first.
        """

    def place(self, pick: int) -> str:
        """File, and row within it, of an image: for messages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentSet:
    """Latents that were made before training."""

    rows: StoredRows
    content: Content
    scale: float
    """Multiplied after the shift; 1 where the rows are scaled already."""
    shift: float
    """Subtracted first."""
    statistics: Statistics = NO_STATISTICS
    """By which latents are normalised before that."""
    flip: bool = True
    """Mirror half of all draws, if there are mirrored rows."""
    class_names: tuple[str, ...] = ()
    """Name of each class; empty if they have none."""

    @property
    def name(self) -> str:
        """Name in messages and reports."""
        return self.rows.name

    @property
    def num_images(self) -> int:
        """Number of images: N."""
        return len(self.rows.labels_N)

    @property
    def num_classes(self) -> int:
        """One more than the largest label."""
        return int(self.rows.labels_N.max()) + 1

    @property
    def shape_CYX(self) -> tuple[int, int, int]:
        """Shape of one latent."""
        stored, height, width = self.rows.shape_RYX
        return stored if self.content is Content.LATENT else stored // 2, height, width

    @property
    def fingerprint(self) -> str:
        """SHA-256 that identifies the data."""
        return self.rows.fingerprint

    def expect(self, pick_B: Tensor, position_B: Tensor, seed: int) -> None:
        """Begin to read a batch from the disk, see `ReadsAhead`."""
        self.rows.expect(pick_B.tolist(), self._flips(position_B, seed))

    def read(self, pick_B: Tensor, position_B: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Scaled latents (B, C, Y, X) float32 and labels (B,) int64.

        Raises:
            DataError: If rows are damaged, or hold NaN or zeros alone: the first one is named.
        """
        picks = pick_B.tolist()
        stored_BRYX = self.rows.read(picks, self._flips(position_B, seed))
        is_filled = stored_BRYX.flatten(1).any(dim=1).tolist()
        if not all(is_filled):  # a file that was not copied to its end may have its whole size
            empty = self.rows.place(picks[is_filled.index(False)])
            raise DataError(f"{empty} holds zeros alone, which no autoencoder makes", hint="copy it again")
        latents_BCYX = self._draw(stored_BRYX, position_B, seed)
        if not math.isfinite(latents_BCYX.sum()):  # a tenth of the time that looking at each number takes
            broken = [pick for pick, latent in zip(picks, latents_BCYX, strict=True) if not latent.isfinite().all()]
            if broken:  # else finite numbers have an infinite sum
                raise DataError(f"{self.rows.place(broken[0])} holds NaN or infinite latents", hint="make them again")
        latents_BCYX = normalised(latents_BCYX, self.statistics)
        return (latents_BCYX - self.shift).mul_(self.scale), torch.from_numpy(self.rows.labels_N[picks])

    def _flips(self, position_B: Tensor, seed: int) -> list[bool]:
        """Return True for the rows of a batch that are of mirrored images."""
        coins = self.flip and self.rows.has_flips
        return flip_coins(position_B, seed).tolist() if coins else [False] * len(position_B)

    def _draw(self, stored_BRYX: Tensor, position_B: Tensor, seed: int) -> Tensor:
        if self.content is Content.LATENT:
            return stored_BRYX
        mean_BCYX, spread_BCYX = stored_BRYX.chunk(2, dim=1)
        std_BCYX = spread_BCYX if self.content is Content.MEAN_STD else (0.5 * spread_BCYX).exp_()
        return draw_latents(mean_BCYX, std_BCYX, position_B, seed)


def measured_std(data: LatentSet) -> float:
    """Typical standard deviation of a latent channel, as training would see it, from a sample of the images.

    The root of the mean over channels of each channel's variance over images and places.
    """
    count = min(SCALE_SAMPLE, data.num_images)
    picks = torch.arange(count) * data.num_images // count
    latents_BCYX, _ = data.read(picks, torch.arange(count), 0)
    return math.sqrt(latents_BCYX.double().var(dim=(0, 2, 3)).mean())


def check_scale(data: LatentSet, model_scale: float) -> None:
    """Refuse latents that were scaled in another way than their layout says, or not at all.

    Args:
        data: The set.
        model_scale: The factor the model's latents have.

    Raises:
        DataError: Naming the measured value, the expected one and the likely cause.
    """
    std = measured_std(data)
    low, high = STD_RANGE
    if low <= std <= high:
        return
    what = f"the latents of {data.name} have standard deviation {std:.3g} in training, expected about 1"
    if low <= std * model_scale <= high:
        raise DataError(
            f"{what}: they were stored without the factor {model_scale:g}",
            hint=f"multiply the stored latents by {model_scale:g}, or make them again with medcli latents",
        )
    if low <= std / model_scale <= high:
        raise DataError(
            f"{what}: they were stored with the factor {model_scale:g} already, which this layout does not do",
            hint=f"divide the stored latents by {model_scale:g}, or make them again with medcli latents",
        )
    raise DataError(
        f"{what}, and no factor {model_scale:g} explains it",
        hint="they may come from another autoencoder: make them again with medcli latents",
    )
