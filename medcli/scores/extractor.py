"""Feature extractors: a frozen network that maps images to the features metrics read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch

POOL = "pool"
"""One vector an image, from the last layer before the classes: FID, KID, precision and recall."""
LOGITS = "logits"
"""Class scores without bias where the papers leave it out: the Inception Score."""
SPATIAL = "spatial"
"""A flattened early feature map: sFID."""

INCEPTION = "inception"
CPU = torch.device("cpu")


class FeatureExtractor(ABC):
    """A frozen network; it carries no state between calls.

    Args:
        name: Its name on the command line.
        dims: Width of each kind of feature it gives: `pool` always, `logits` and `spatial` if it has such layers.
        weights_sha256: Hash of the weights file, so that features of different weights are never compared.
        device: Where it computes.
    """

    preprocessing: str
    """Preprocessing of the pixels, in words; features with different preprocessing are never compared."""
    rows_per_call: int | None = None
    """Largest efficient number of images in one network call; None if more is always better."""

    def __init__(self, name: str, dims: Mapping[str, int], weights_sha256: str, device: torch.device) -> None:
        self.name, self.dims, self.weights_sha256, self._device = name, dims, weights_sha256, device

    @property
    def device_type(self) -> str:
        """Kind of device, `cpu`, `cuda` or `mps`: features differ between kinds in their last digits."""
        return self._device.type

    @abstractmethod
    def prepare(self, images_BYXC: torch.Tensor) -> torch.Tensor:
        """Preprocess images: one tensor shape whatever their size, on the network's device.

        Args:
            images_BYXC: (B, Y, X, 3) uint8, any size, RGB.
        """

    @abstractmethod
    def run(self, prepared: torch.Tensor) -> dict[str, torch.Tensor]:
        """Features of preprocessed images, (B, width) float32 on the network's device, of all kinds but `logits`."""

    def logits(self, pool_BD: torch.Tensor) -> torch.Tensor:
        """(B, classes) float32 class scores, on the CPU: they follow from the pool features."""
        raise NotImplementedError(f"{self.name} gives no class scores")

    def features(self, images_BYXC: torch.Tensor) -> dict[str, torch.Tensor]:
        """All features of a batch, `prepare`, `run` and `logits` in one: (B, width) float32 for each name in `dims`."""
        found = self.run(self.prepare(images_BYXC))
        return {**found, LOGITS: self.logits(found[POOL])} if LOGITS in self.dims else found


def kinds_to_store(extractor: FeatureExtractor) -> tuple[str, ...]:
    """Kinds of features from which the others can be computed, in the order of `dims`."""
    return tuple(kind for kind in extractor.dims if kind != LOGITS)
