"""A model of a few thousand random weights that engine and command tests share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from medcli.checkpoint.writer import save_checkpoint
from medcli.config import ModelConfig
from medcli.model.backbone import DiffusionTransformer, empty_model, initialise

LADDER = (1, 4, 16)

PIXELS = ModelConfig(
    family="sit",
    hidden_size=16,
    depth=2,
    num_heads=2,
    patch_size=2,
    latent_size=8,
    in_channels=1,
    num_classes=10,
    learn_sigma=False,
    mediators=LADDER,
    mediator_layers=(0, 1),
    autoencoder=None,
    latent_scale=1.0,
    latent_downsample=1,
)
"""8 x 8 grey pictures."""

RHO = (0.98, 0.9)
"""Thresholds that random weights cross, at different steps for different images."""


def state_of(config: ModelConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights, none of them zero, so that every path matters."""
    model = DiffusionTransformer(config)
    initialise(model, seed)
    generator = torch.Generator().manual_seed(seed)
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    for name, tensor in state.items():
        if name != "pos_embed":
            tensor += 0.15 * torch.randn(tensor.shape, generator=generator)
    return state


def model_of(config: ModelConfig = PIXELS, seed: int = 0) -> DiffusionTransformer:
    """A model with those weights."""
    model = empty_model(config)
    model.load_state_dict(state_of(config, seed), assign=True)
    return model


def save(path: Path, config: ModelConfig = PIXELS, *, seed: int = 0, **header: Any) -> Path:
    """The same as a file."""
    save_checkpoint(path, config, state_of(config, seed), **header)
    return path


def with_ladder(config: ModelConfig, *counts: int) -> ModelConfig:
    """The same network with other mediator counts, or with none."""
    return replace(config, mediators=counts, mediator_layers=tuple(range(config.depth)) if counts else ())
