"""The network a fine-tuning run starts from: a checkpoint, changed as asked, or a preset with fresh weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from medcli.checkpoint.infer import Hints
from medcli.checkpoint.load import load_tensors
from medcli.checkpoint.reader import CheckpointInfo, open_checkpoint
from medcli.checkpoint.surgery import operate, target_config
from medcli.config import ModelConfig
from medcli.data.assets import BUNDLED_MODEL, asset_path
from medcli.data.digits import DIGITS, digit_set
from medcli.errors import ConfigError
from medcli.model.backbone import DiffusionTransformer, empty_model, initialise
from medcli.presets import preset_config, preset_of
from medcli.runtime.reporting import Reporter
from medcli.workflows.sample.defaults import sampling_defaults

NO_AUTOENCODER = "none"
"""What `--vae` says of a model from scratch that is to make pixels."""
COLOUR_CHANNELS = 3
OF_SCHEDULE = ("schedule", "rho", "warmup_steps", "distance")
"""Sampling defaults that belong to a ladder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StartRequest:
    """Which network, and how it is to be; None leaves it as it is."""

    checkpoint: Path | None = None
    """A checkpoint of any layout; None, without a preset: the bundled digits model."""
    preset: str | None = None
    """A named size to train from scratch, instead of a checkpoint."""
    weights: str = "ema"
    """`ema` or `model`, for training checkpoints that hold both."""
    family: str | None = None
    """`dit` or `sit`, where neither the file's contents nor its name tells."""
    num_heads: int | None = None
    """Attention heads, where the width is not a preset's."""
    mediators: tuple[int, ...] | None = None
    """The ladder; None: the checkpoint's; empty: none."""
    layers: Callable[[int], tuple[int, ...]] | None = None
    """Blocks with mediators, given how many there are; None: the checkpoint's, else the first four."""
    resolution_px: int | None = None
    """Side of the square image."""
    num_classes: int | None = None
    """Classes, the null class not counted; None: the checkpoint's; from scratch, the data's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """A network by its shape and origin; its weights are read or drawn by `load`."""

    name: str
    """File name of the checkpoint, or the preset."""
    config: ModelConfig
    load: Callable[[], DiffusionTransformer]
    """float32, on the CPU."""
    source: CheckpointInfo | None = None
    """None from scratch."""
    changes: Mapping[str, int] = field(default_factory=dict)
    """How many tensors were copied, resized, made new and dropped; empty from scratch."""

    @property
    def defaults(self) -> dict[str, Any]:
        """Sampler and schedule the source names for itself, as far as they fit what became of it.

        Raises:
            CheckpointError: If a value can't be.
        """
        if self.source is None:
            return {}
        named = sampling_defaults(self.source)
        if self.source.config.mediators == self.config.mediators:
            return named
        # A schedule's thresholds belong to the ladder they were chosen for.
        return {name: value for name, value in named.items() if name not in OF_SCHEDULE}


def find_start(request: StartRequest, *, seed: int, data: str, autoencoder: str | None) -> Start:
    """Find a network and work out what it becomes; nothing big is read yet.

    Args:
        request: Which, and how it is to be.
        seed: Of fresh weights.
        data: Name of the data; the bundled digits need a model of their pixels.
        autoencoder: What `--vae` says.

    Raises:
        ConfigError: If the preset is unknown, or the wishes contradict each other or don't fit the model.
        CheckpointError: If the checkpoint is missing, damaged or not of these families.
    """
    if request.preset is None:
        return _changed_checkpoint(request, autoencoder)
    if request.checkpoint is not None:
        raise ConfigError(
            f"both a checkpoint ({request.checkpoint}) and --preset {request.preset} are given",
            hint="leave one out: a preset is trained from scratch",
        )
    config = _scratch_config(request, data, autoencoder)
    return Start(
        name=preset_of(config) or request.preset,
        config=config,
        load=lambda: _fresh_model(config, seed),
    )


def with_classes(start: Start, num_classes: int, *, seed: int) -> Start:
    """The same fresh network for another number of classes."""
    config = replace(start.config, num_classes=num_classes)
    return replace(start, config=config, load=lambda: _fresh_model(config, seed))


def _fresh_model(config: ModelConfig, seed: int) -> DiffusionTransformer:
    model = DiffusionTransformer(config)
    initialise(model, seed)
    return model


def _scratch_config(request: StartRequest, data: str, autoencoder: str | None) -> ModelConfig:
    """A preset for latents, or for pixels where the data are the digits or `--vae none` says so."""
    config = preset_config(str(request.preset))
    resolution_px = request.resolution_px
    if data == DIGITS:
        channels, side, _ = digit_set().shape_CYX
        config = _of_pixels(config, channels)
        resolution_px = resolution_px or side
    elif autoencoder == NO_AUTOENCODER:
        config = _of_pixels(config, COLOUR_CHANNELS)
        if resolution_px is None:
            raise ConfigError("a model of pixels needs its resolution", hint="add --res 32")
    config = config.at_resolution(resolution_px or config.resolution_px)
    layers = request.layers(config.depth) if request.layers else None
    return target_config(
        config,
        mediators=request.mediators,
        layers=layers,
        num_classes=request.num_classes,
        add_mediators=False,
    )


def _of_pixels(config: ModelConfig, channels: int) -> ModelConfig:
    """The same network without an autoencoder; its latent is the image in [-1, 1]."""
    return replace(
        config, in_channels=channels, autoencoder=None, latent_scale=1.0, latent_shift=0.0, latent_downsample=1
    )


def _changed_checkpoint(request: StartRequest, autoencoder: str | None) -> Start:
    hints = Hints(
        family=request.family,
        num_heads=request.num_heads,
        num_classes=request.num_classes,
        resolution_px=request.resolution_px,
    )
    path = request.checkpoint or asset_path(BUNDLED_MODEL)
    opened = open_checkpoint(path, hints=hints, weights=request.weights)
    config = opened.info.config
    if autoencoder == NO_AUTOENCODER and config.autoencoder is not None:
        raise ConfigError(
            f"{opened.info.path.name} makes latents, not pixels", hint="name its autoencoder with --vae PATH"
        )
    target = target_config(
        config,
        mediators=request.mediators,
        layers=None if request.layers is None else request.layers(config.depth),
        resolution_px=request.resolution_px,
        num_classes=request.num_classes,
        add_mediators=False,
    )
    surgery = operate(opened.records, config, target, made=opened.made)

    def load() -> DiffusionTransformer:
        model = empty_model(target)
        model.load_state_dict(load_tensors(surgery.records, opened.info.path.name), assign=True)
        return model.to(torch.float32)

    names = ("copied", "resized", "new", "dropped")
    return Start(
        name=opened.info.path.name,
        config=target,
        load=load,
        source=opened.info,
        changes={name: len(getattr(surgery, name)) for name in names},
    )


def remark_on_changes(start: Start, reporter: Reporter, *, is_calibrated: bool) -> None:
    """Tell what the network lost or gained on its way from the file to the run."""
    if start.source is None:
        return
    lost = [str(count) for count in start.source.config.mediators if count not in start.config.mediators]
    if lost:
        reporter.note(f"the tables for {', '.join(lost)} mediators of {start.name} are left out")
    if start.changes.get("new") and not is_calibrated:
        reporter.note(f"{start.changes['new']} new tensors start neutral; --calibrate would fit them before training")
