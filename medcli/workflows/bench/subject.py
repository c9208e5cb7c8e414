"""The network that is measured: a checkpoint, changed as asked, or a preset with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from medcli.checkpoint.infer import Hints
from medcli.checkpoint.load import load_tensors
from medcli.checkpoint.reader import open_checkpoint
from medcli.checkpoint.surgery import operate, target_config
from medcli.config import ModelConfig
from medcli.model.backbone import EMBEDDING_STD, DiffusionTransformer, empty_model, initialise
from medcli.presets import means_preset, preset_config, preset_of

DEFAULT_MODEL = "SiT-S/2"
"""Small enough for a laptop, and the size the papers' tables have in all variants."""
RANDOM_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """How the network is to be; None leaves it as it is."""

    resolution_px: int | None = None
    mediators: tuple[int, ...] | None = None
    """None: the checkpoint's ladder, else 4, 16, 64; empty: none."""
    layers: Callable[[int], tuple[int, ...]] | None = None
    """Blocks with mediators, given how many there are; None: the checkpoint's, else all."""

    def applied_to(self, config: ModelConfig) -> ModelConfig:
        """The network that is asked for.

        Raises:
            ConfigError: If the wishes contradict each other or don't fit the model.
        """
        layers = self.layers(config.depth) if self.layers else None
        is_free = not config.mediators and config.qk_ratio == 1.0
        if layers is None and is_free and self.mediators != ():
            layers = tuple(range(config.depth))
        return target_config(config, mediators=self.mediators, layers=layers, resolution_px=self.resolution_px)


@dataclass(frozen=True, slots=True)
class Subject:
    """A network by its name and shape; its weights are read or drawn by `load`."""

    name: str
    config: ModelConfig
    load: Callable[[], DiffusionTransformer]
    """float32, on the CPU."""


def find_subject(
    model: str | None, shape: Shape, *, family: str | None = None, num_heads: int | None = None
) -> Subject:
    """Find a network; nothing big is read yet.

    Args:
        model: A preset or a path; None takes `DEFAULT_MODEL`.
        shape: How it is to be.
        family: `dit` or `sit`, where neither the file's contents nor its name tells.
        num_heads: Attention heads, where the width is not a preset's.

    Raises:
        ConfigError: If the preset is unknown or the shape does not fit.
        CheckpointError: If the checkpoint is missing, damaged or not of these families.
    """
    given = model or DEFAULT_MODEL
    if means_preset(given):
        config = shape.applied_to(preset_config(given))
        return Subject(preset_of(config) or given, config, lambda: random_model(config))
    opened = open_checkpoint(Path(given), hints=Hints(family=family, num_heads=num_heads), weights=None)
    target = shape.applied_to(opened.info.config)

    def load() -> DiffusionTransformer:
        surgery = operate(opened.records, opened.info.config, target, made=opened.made)
        loaded = empty_model(target)
        loaded.load_state_dict(load_tensors(surgery.records, opened.info.path.name), assign=True)
        return loaded.to(torch.float32)

    return Subject(opened.info.path.name, target, load)


@torch.no_grad()
def random_model(config: ModelConfig, seed: int = RANDOM_SEED) -> DiffusionTransformer:
    """A network with random weights, the same for the same seed.

    Training starts with zeros where a block ends, so a fresh network returns zeros; here they are small random numbers.
    Then results can be compared, and no device saves power on them.
    """
    model = DiffusionTransformer(config).eval()
    initialise(model, seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            parameter.copy_(EMBEDDING_STD * torch.randn(parameter.shape, generator=generator))
    return model.requires_grad_(False)
