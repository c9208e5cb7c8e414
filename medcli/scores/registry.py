"""The extractors by name. A new one is a file of its own and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch

from medcli.errors import ConfigError
from medcli.scores.digits_extractor import load_digits_extractor
from medcli.scores.extractor import CPU, DIGITS, INCEPTION, FeatureExtractor
from medcli.scores.inception import load_inception


class Loader(Protocol):
    """Builds an extractor from a weights file, or from the file's usual place."""

    def __call__(self, weights_path: Path | None = None, *, device: torch.device = CPU) -> FeatureExtractor:
        """Load the weights and put the network on a device."""


EXTRACTORS: Mapping[str, Loader] = {INCEPTION: load_inception, DIGITS: load_digits_extractor}


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
    if name not in EXTRACTORS:
        raise ConfigError(f"unknown extractor {name!r}", hint=f"choose one of {', '.join(EXTRACTORS)}")
    return EXTRACTORS[name](weights_path, device=device)
