"""What turns images into feature vectors: the interface every metric reads through."""

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
DIGITS = "digits"
CPU = torch.device("cpu")


class FeatureExtractor(Protocol):
    """A frozen network; it carries no state between calls."""

    @property
    def name(self) -> str:
        """Its name on the command line."""

    @property
    def dims(self) -> Mapping[str, int]:
        """Width of each kind of feature it gives: `pool` and `logits` always, `spatial` if it has such a layer."""

    @property
    def weights_sha256(self) -> str:
        """Hash of the weights file, so that features of different weights are never compared."""

    def features(self, images_BYXC: torch.Tensor) -> dict[str, torch.Tensor]:
        """Features of a batch.

        Args:
            images_BYXC: (B, Y, X, 3) uint8, any size, RGB.

        Returns:
            For each name in `dims`: (B, width) float32 on the extractor's device.
        """
