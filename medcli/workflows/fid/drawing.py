"""Samples of a checkpoint, or of a training run that may still be going on: drawn, then scored like any others."""

from __future__ import annotations

import fnmatch
from os.path import realpath
from pathlib import Path

from medcli.checkpoint.plain_folder import SUFFIXES
from medcli.checkpoint.run_state import STATES, newest_of_run
from medcli.data.images import MANIFEST
from medcli.errors import ConfigError, DataError
from medcli.network import open_network
from medcli.runtime.processes import this_process
from medcli.runtime.reporting import Reporter
from medcli.settings.network import NetworkSource
from medcli.settings.sampling import SampleRequest
from medcli.settings.scoring import ScoreRequest
from medcli.workflows.sample.run import sample

SAMPLES = Path("samples")
DEFAULT_NUM = 1000
"""Number of images that are drawn."""


def drawn_samples(path: Path, request: ScoreRequest, reporter: Reporter) -> Path:
    """Return the sample folder of a checkpoint or a run's newest one, filled first; of any other path, itself.

    Args:
        path: What is to be scored.
        request: Tells the number of images, their seed, and the reference if it is not the checkpoint's.

    Raises:
        ConfigError: If several processes were launched, which do not share this work.
        DataError: If no reference is named, before anything is drawn.
        MedcliError: If the checkpoint can't be sampled.
    """
    checkpoint = _checkpoint(path)
    if checkpoint is None:
        return path
    if not this_process().is_alone:
        raise ConfigError(
            f"{path} is a checkpoint, which fid samples in one process", hint=f"draw first: medcli sample {path}"
        )
    network = open_network(NetworkSource(checkpoint=checkpoint))
    if request.reference is None and (network.info is None or network.info.reference is None):
        raise DataError(f"{checkpoint} names no reference to score against", hint=f"medcli fid {path} REFERENCE")
    is_state = fnmatch.fnmatch(checkpoint.name, STATES) or path.is_dir()
    stem = f"{Path(realpath(checkpoint.parent)).name}-{checkpoint.stem}" if is_state else checkpoint.stem
    seed = request.seed or 0
    folder = SAMPLES / f"{stem}-{seed}"
    count = request.num_images or DEFAULT_NUM
    reporter.note(f"{checkpoint} draws {count} images with its default settings into {folder}")
    device = (request.features.device or "").split(",")[0] or None
    sample(
        SampleRequest(
            network=NetworkSource(checkpoint=checkpoint), num_images=count, seed=seed, device=device, output=folder
        ),
        reporter,
    )
    return folder


def _checkpoint(path: Path) -> Path | None:
    """Return the checkpoint that a path names, or the newest one of a run; None for images and statistics."""
    if path.is_dir():
        return None if (path / MANIFEST).exists() else newest_of_run(path)
    return path if path.suffix in SUFFIXES and path.is_file() else None
