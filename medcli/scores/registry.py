"""Feature extractors by name or file: Inception, the classifiers of the bundles, and files of one's own."""

from __future__ import annotations

from pathlib import Path

import torch

from medcli.data.assets import BUNDLES, CLASSIFIER, asset_path
from medcli.errors import ConfigError
from medcli.scores.classifier import load_classifier
from medcli.scores.extractor import CPU, INCEPTION, FeatureExtractor
from medcli.scores.inception import load_inception
from medcli.scores.torchscript import is_torchscript, load_torchscript

EXTRACTORS = (INCEPTION, *BUNDLES)
"""Names of extractors."""


def load_extractor(name: str, *, weights_path: Path | None = None, device: torch.device = CPU) -> FeatureExtractor:
    """Build an extractor.

    Args:
        name: `inception`, a bundle, or any other name with `weights_path`.
        weights_path: Its file, which for other names is a TorchScript module or a classifier of our own; None: the
            default location (`inception`) or the bundled file.

    Raises:
        ConfigError: If the name is unknown.
        EnvironmentProblem: If the weights are missing; nothing is downloaded.
        DataError: If the weights file is damaged or holds another network.
    """
    if name == INCEPTION:
        return load_inception(weights_path, device=device)
    if name in BUNDLES:
        return load_classifier(weights_path or asset_path(f"{name}{CLASSIFIER}"), name, device=device)
    if weights_path is None:
        raise ConfigError(f"unknown extractor {name!r}", hint=f"choose one of {', '.join(EXTRACTORS)}, or name a file")
    if weights_path.is_file() and is_torchscript(weights_path):
        return load_torchscript(weights_path, name, device=device)
    return load_classifier(weights_path, name, device=device)
