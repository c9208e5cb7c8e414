"""Feature extractors by name. To add one: its name in `ExtractorName`, a file of its own and a line in `EXTRACTORS`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, get_args

import torch

from medcli.errors import ConfigError, require_complete
from medcli.scores.digits_extractor import load_digits_extractor
from medcli.scores.extractor import CPU, DIGITS, INCEPTION, FeatureExtractor
from medcli.scores.inception import load_inception
from medcli.settings.scoring import ExtractorName


class Loader(Protocol):
    """Builds an extractor from a weights file, or from its default location."""

    def __call__(self, weights_path: Path | None = None, *, device: torch.device = CPU) -> FeatureExtractor:
        """Load the weights and put the network on a device."""


EXTRACTORS: Mapping[str, Loader] = {INCEPTION: load_inception, DIGITS: load_digits_extractor}
require_complete("extractor", EXTRACTORS, get_args(ExtractorName))


def load_extractor(name: str, *, weights_path: Path | None = None, device: torch.device = CPU) -> FeatureExtractor:
    """Build an extractor by name.

    Args:
        name: `inception` or `digits`.
        weights_path: Its weights; None: the default location (`inception`) or the bundled file (`digits`).
        device: Where the network runs.

    Raises:
        ConfigError: If the name is unknown.
        EnvironmentProblem: If the weights are missing; nothing is downloaded.
        DataError: If the weights file is damaged or holds another network.
    """
    if name not in EXTRACTORS:
        raise ConfigError(f"unknown extractor {name!r}", hint=f"choose one of {', '.join(EXTRACTORS)}")
    return EXTRACTORS[name](weights_path, device=device)
