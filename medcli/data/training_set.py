"""Training sets: numbered images with labels, in random access."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from medcli.errors import DataError
from medcli.runtime.noise import Stream, integers

# Dimension key: N images of the set, B images of a batch, C channels, Y X height and width.


class TrainingSet(Protocol):
    """A finite set of labelled images, as a model's latents or as pixels, in any order and batch split."""

    @property
    def name(self) -> str:
        """Name in messages and reports."""

    @property
    def num_images(self) -> int:
        """Number of images N."""

    @property
    def num_classes(self) -> int:
        """Largest label plus one."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class; empty if they have none."""

    @property
    def shape_CYX(self) -> tuple[int, int, int]:
        """Shape of one image as `read` yields it."""

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, that identifies the content: a resumed run needs the same data."""

    def read(self, pick_B: Tensor, position_B: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Images and labels. A row depends on its own pick, position and the seed, and on no other row.

        Args:
            pick_B: (B,) int64 image numbers in [0, N).
            position_B: (B,) int64 positions in the run's sequence of draws (step * global batch + row). Flip coins
                (`Stream.TRAIN_FLIP`) and autoencoder noise (`Stream.TRAIN_POSTERIOR`) are functions of it and the seed.
            seed: Random seed of the run.

        Returns:
            (B, C, Y, X) float32 on the CPU, model latents or pixels in [-1, 1]; (B,) int64 labels.

        Raises:
            DataError: If an image can't be read; it is named.
        """


@runtime_checkable
class ReadsAhead(Protocol):
    """A training set that reads batches from a disk ahead of their use."""

    def expect(self, pick_B: Tensor, position_B: Tensor, seed: int) -> None:
        """Begin to read a batch that `TrainingSet.read` will be called for with the same arguments."""


@dataclass(frozen=True, slots=True)
class ArraySet:
    """Training set in memory, without flips or random draws."""

    name: str
    """Name in messages and reports."""
    data_NCYX: Tensor
    """(N, C, Y, X) float32 on the CPU: model latents, or pixels in [-1, 1]."""
    labels_N: Tensor
    """(N,) int64, from 0."""
    class_names: tuple[str, ...] = ()
    """Name of each class; empty if they have none."""

    @property
    def num_images(self) -> int:
        """Number of images N."""
        return len(self.labels_N)

    @property
    def num_classes(self) -> int:
        """Largest label plus one."""
        return int(self.labels_N.max()) + 1

    @property
    def shape_CYX(self) -> tuple[int, int, int]:
        """Shape of one image."""
        channels, height, width = self.data_NCYX.shape[1:]
        return channels, height, width

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the images and labels."""
        digest = hashlib.sha256(str(tuple(self.data_NCYX.shape)).encode())
        for tensor in (self.data_NCYX, self.labels_N):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def read(self, pick_B: Tensor, position_B: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Return rows unchanged; position and seed have no effect."""
        return self.data_NCYX[pick_B], self.labels_N[pick_B]


FEWEST_UNREADABLE = 8
"""Unreadable images, or half of a smaller set, that never stop a run; else 1 % of the set."""


class LenientSet:
    """A training set that replaces images that can't be read by the next readable ones, and records them.

    So an image that is damaged after a run has begun costs no more than itself; a disk that goes away stops the run.

    Args:
        data: The set.
    """

    def __init__(self, data: TrainingSet) -> None:
        self._data = data
        self.name, self.num_images, self.num_classes = data.name, data.num_images, data.num_classes
        self.shape_CYX, self.fingerprint, self.class_names = data.shape_CYX, data.fingerprint, data.class_names
        self.unreadable: dict[int, str] = {}
        """Error message of each unreadable image, by number."""

    @property
    def max_unreadable(self) -> int:
        """Unreadable images that do not stop a run."""
        return max(min(FEWEST_UNREADABLE, self.num_images // 2), self.num_images // 100)

    def expect(self, pick_B: Tensor, position_B: Tensor, seed: int) -> None:
        """Begin to read a batch, if the set does so, see `ReadsAhead`."""
        if isinstance(self._data, ReadsAhead):
            self._data.expect(self._without_unreadable(pick_B), position_B, seed)

    def read(self, pick_B: Tensor, position_B: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Images and labels, see `TrainingSet.read`.

        Raises:
            DataError: If more than `max_unreadable` images can't be read.
        """
        self._require_readable()
        try:
            return self._data.read(self._without_unreadable(pick_B), position_B, seed)
        except DataError:
            for pick in pick_B.unique().tolist():
                self._check(pick, seed)
            return self._data.read(self._without_unreadable(pick_B, seed), position_B, seed)

    def _check(self, pick: int, seed: int) -> bool:
        """Return whether an image can be read, and record it if not."""
        if pick in self.unreadable:
            return False
        try:
            self._data.read(torch.tensor([pick]), torch.tensor([0]), seed)
        except DataError as err:
            self.unreadable[pick] = err.message
            self._require_readable()
            return False
        return True

    def _require_readable(self) -> None:
        """Refuse to read on: batches are read ahead, also after one of them failed."""
        if len(self.unreadable) > self.max_unreadable:
            raise DataError(
                f"{len(self.unreadable)} images of {self.name} can't be read, "
                f"the last: {next(reversed(self.unreadable.values()))}",
                hint="check the disk; the run is saved and resumes once the images can be read",
            )

    def _without_unreadable(self, pick_B: Tensor, seed: int | None = None) -> Tensor:
        """Replace unreadable images by the next ones; with a seed, check these as well."""
        picks = pick_B.tolist()
        for place, pick in enumerate(picks):
            number = pick
            while number in self.unreadable or (number != pick and seed is not None and not self._check(number, seed)):
                number = (number + 1) % self.num_images
            picks[place] = number
        return torch.tensor(picks, dtype=torch.int64)


def flip_coins(position_B: Tensor, seed: int) -> Tensor:
    """(B,) bool: rows of a batch to mirror, half of all positions."""
    return integers(seed, position_B, torch.zeros_like(position_B), 2, Stream.TRAIN_FLIP).bool()
