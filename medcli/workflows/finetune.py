"""Train a checkpoint's ladder further. This version reads the bundled digits; resumes by itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from medcli.checkpoint.load import load_model
from medcli.checkpoint.reader import describe
from medcli.checkpoint.writer import save_checkpoint
from medcli.config import ModelConfig
from medcli.data.assets import BUNDLED_MODEL, asset_path
from medcli.data.digits import DIGITS, digit_latents
from medcli.errors import DataError
from medcli.runtime.reporting import Reporter
from medcli.training.loop import LatentSet, TrainConfig, train

CHECKPOINT = "checkpoint.safetensors"
"""Name of the finished model in the run's folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneRequest:
    """What to train, on what, into which folder."""

    output: Path
    """Gets the training state, the loss log and, at the end, `checkpoint.safetensors`."""
    training: TrainConfig
    """The run; its `entries` are replaced by the checkpoint's ladder and full attention."""
    checkpoint: Path | None = None
    """None: the bundled digits model."""
    data: str = DIGITS
    """Name of the data set."""
    weights: str = "ema"
    """Which weights of a training checkpoint to start from: `ema` or `model`."""
    family: str | None = None
    num_heads: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneReport:
    """What came out."""

    output: str
    """The finished checkpoint."""
    steps: int
    entries: tuple[int, ...]
    """Mediator counts trained together; 0 is full attention."""
    num_images: int
    """Images in the data set."""
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "output": self.output,
            "steps": self.steps,
            "entries": list(self.entries),
            "num_images": self.num_images,
            "sha256": self.sha256,
        }


def finetune(request: FinetuneRequest, reporter: Reporter) -> FinetuneReport:
    """Train, continuing what the output folder holds, and write the averaged weights as a checkpoint.

    Every ladder entry and full attention learn together, each from its share of every batch: they share their
    projections, so training some alone would spoil the others.

    Raises:
        MedcliError: If the data do not fit the model, or the folder holds another run.
    """
    path = request.checkpoint or asset_path(BUNDLED_MODEL)
    info = describe(path, family=request.family, num_heads=request.num_heads, weights=request.weights)
    data = _load_data(request.data, info.config)
    training = replace(request.training, entries=(0, *info.config.mediators))
    model = load_model(
        path, family=request.family, num_heads=request.num_heads, weights=request.weights, dtype=torch.float32
    )
    averaged = train(model, data, training, request.output, reporter)
    target = request.output / CHECKPOINT
    history = {"data": request.data, "steps": training.steps, **training.fixed()}
    sha256 = save_checkpoint(
        target, info.config, averaged, sampling=info.sampling, reference=info.reference, training=history, force=True
    )
    return FinetuneReport(
        output=str(target),
        steps=training.steps,
        entries=training.entries,
        num_images=len(data.labels_N),
        sha256=sha256,
    )


def _load_data(name: str, config: ModelConfig) -> LatentSet:
    """The data set as the model's latents.

    Raises:
        DataError: If there is no such data set, or it does not fit the model.
    """
    if name != DIGITS:
        raise DataError(
            f"unknown data set {name!r}: this version trains on the bundled digits alone", hint=f"use --data {DIGITS}"
        )
    latents, labels = digit_latents()
    if latents.shape[1:] != (config.in_channels, config.latent_size, config.latent_size) or config.autoencoder:
        raise DataError(
            f"the digits are {latents.shape[1:]} pixels, the model takes "
            f"{(config.in_channels, config.latent_size, config.latent_size)} "
            f"{'latents' if config.autoencoder else 'pixels'}",
            hint="leave CHECKPOINT out to continue the bundled digits model",
        )
    if int(labels.max()) >= config.num_classes:
        raise DataError(
            f"the digits have 10 classes, the model {config.num_classes}",
            hint="leave CHECKPOINT out to continue the bundled digits model",
        )
    return LatentSet(torch.from_numpy(latents), torch.from_numpy(labels))
