"""What training reads: numbered images with labels, any of them at any time."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from medcli.runtime.noise import Stream, integers

# Dimension key: N images of the set, B images of a batch, C channels, Y X height and width.


class TrainingSet(Protocol):
    """A finite set of labelled images, as a model's latents or as pixels, in any order and batch split."""

    @property
    def name(self) -> str:
        """What messages and reports call it."""

    @property
    def num_images(self) -> int:
        """How many images there are: N."""

    @property
    def num_classes(self) -> int:
        """One more than the largest label."""

    @property
    def shape_CYX(self) -> tuple[int, int, int]:
        """Shape of one image as `read` yields it."""

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of what the set holds: a resumed run must meet the same data."""

    def read(self, pick_B: Tensor, position_B: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Images and labels. A row depends on its own pick, position and the seed, and on no other row.

        Args:
            pick_B: (B,) int64 image numbers in [0, N).
            position_B: (B,) int64 places in the run's whole sequence of draws (step * global batch + row). Flip coins
                (`Stream.TRAIN_FLIP`) and autoencoder noise (`Stream.TRAIN_POSTERIOR`) are functions of it and the seed.
            seed: Of the run.

        Returns:
            (B, C, Y, X) float32 on the CPU, model latents or pixels in [-1, 1]; (B,) int64 labels.

        Raises:
            DataError: If an image can't be read; it is named.
        """


@dataclass(frozen=True, slots=True)
class ArraySet:
    """A set in memory, read as it is: nothing is flipped or drawn."""

    name: str
    """What messages and reports call it."""
    data_NCYX: Tensor
    """(N, C, Y, X) float32 on the CPU: model latents, or pixels in [-1, 1]."""
    labels_N: Tensor
    """(N,) int64, from 0."""

    @property
    def num_images(self) -> int:
        """How many images there are: N."""
        return len(self.labels_N)

    @property
    def num_classes(self) -> int:
        """One more than the largest label."""
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
        """Rows as they are; position and seed change nothing."""
        return self.data_NCYX[pick_B], self.labels_N[pick_B]


def flip_coins(position_B: Tensor, seed: int) -> Tensor:
    """(B,) bool: which rows of a batch are mirrored, half of all positions."""
    return integers(seed, position_B, torch.zeros_like(position_B), 2, Stream.TRAIN_FLIP).bool()
