"""Feature extractor protocol: a frozen network that maps images to the features metrics read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

POOL = "pool"
"""One vector an image, from the last layer before the classes: FID, KID, precision and recall."""
LOGITS = "logits"
"""Class scores without bias where the papers leave it out: the Inception Score."""
SPATIAL = "spatial"
"""A flattened early feature map: sFID."""

INCEPTION = "inception"
CPU = torch.device("cpu")


class FeatureExtractor(Protocol):
    """A frozen network; it carries no state between calls."""

    @property
    def name(self) -> str:
        """Its name on the command line."""

    @property
    def dims(self) -> Mapping[str, int]:
        """Width of each kind of feature it gives: `pool` always, `logits` and `spatial` if it has such layers."""

    @property
    def weights_sha256(self) -> str:
        """Hash of the weights file, so that features of different weights are never compared."""

    @property
    def preprocessing(self) -> str:
        """Preprocessing of the pixels, in words; features with different preprocessing are never compared."""

    @property
    def device_type(self) -> str:
        """Kind of device it computes on: features differ between kinds in their last digits."""

    @property
    def rows_per_call(self) -> int | None:
        """Largest efficient number of images in one network call; None if more is always better."""

    def prepare(self, images_BYXC: torch.Tensor) -> torch.Tensor:
        """Preprocess images: one tensor shape whatever their size, on the network's device.

        Args:
            images_BYXC: (B, Y, X, 3) uint8, any size, RGB.
        """

    def run(self, prepared: torch.Tensor) -> dict[str, torch.Tensor]:
        """Features of preprocessed images, (B, width) float32 on the network's device, of all kinds but `logits`."""

    def logits(self, pool_BD: torch.Tensor) -> torch.Tensor:
        """(B, classes) float32 class scores, on the CPU: they follow from the pool features."""

    def features(self, images_BYXC: torch.Tensor) -> dict[str, torch.Tensor]:
        """All features of a batch, `prepare`, `run` and `logits` in one: (B, width) float32 for each name in `dims`."""


def kinds_to_store(extractor: FeatureExtractor) -> tuple[str, ...]:
    """Kinds of features from which the others can be computed, in the order of `dims`."""
    return tuple(kind for kind in extractor.dims if kind != LOGITS)
