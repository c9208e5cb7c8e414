"""What turns images into feature vectors: the interface every metric reads through, and the extractors by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch

from medcli.errors import ConfigError

POOL = "pool"
"""One vector an image, from the last layer before the classes: FID, KID, precision and recall."""
LOGITS = "logits"
"""Class scores without bias where the papers leave it out: the Inception Score."""
SPATIAL = "spatial"
"""A flattened early feature map: sFID."""

INCEPTION = "inception"
DIGITS = "digits"
EXTRACTORS = (INCEPTION, DIGITS)
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


def load_extractor(name: str, *, weights_path: Path | None = None, device: torch.device = CPU) -> FeatureExtractor:
    """Build an extractor by name.

    Args:
        name: `inception` or `digits`.
        weights_path: Its weights; None looks where they belong (`inception`) or takes the bundled ones (`digits`).
        device: Where the network runs.

    Raises:
        ConfigError: If the name is unknown.
        EnvironmentProblem: If the weights are nowhere to be found; nothing is ever downloaded.
        DataError: If the weights file is damaged or holds another network.
    """
    if name == INCEPTION:
        from medcli.metrics.inception import load_inception  # torch-fidelity and torchvision load only when asked for

        return load_inception(weights_path, device=device)
    if name == DIGITS:
        from medcli.metrics.digits_extractor import load_digits_extractor

        return load_digits_extractor(weights_path, device=device)
    raise ConfigError(f"unknown extractor {name!r}", hint=f"choose one of {', '.join(EXTRACTORS)}")
