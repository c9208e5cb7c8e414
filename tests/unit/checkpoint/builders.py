"""Small models on disk for the tests of checkpoints, in the layouts of other programs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from medcli.config import ModelConfig
from medcli.model.layout import tensor_shapes

GOLDEN = Path(__file__).parents[2] / "golden" / "data"

TINY = ModelConfig(family="sit", hidden_size=16, depth=5, num_heads=2, latent_size=16, num_classes=6)


def random_state(config: ModelConfig = TINY, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """A state dict of random weights in upstream's names."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in tensor_shapes(config).items()}


def save_flat(path: Path, config: ModelConfig = TINY, **options: Any) -> dict[str, Any]:
    """Write a bare state dict, as the official files are; returns it."""
    state = random_state(config, **options)
    torch.save(state, path)
    return state


def save_training(path: Path, config: ModelConfig = TINY, *, groups: tuple[str, ...] = ("model", "ema", "opt")) -> None:
    """Write a training checkpoint with some of its groups and a pickled Namespace."""
    content: dict[str, Any] = {
        "model": random_state(config, seed=1),
        "ema": random_state(config, seed=2),
        "opt": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
    }
    kept = {name: content[name] for name in groups}
    torch.save({**kept, "args": argparse.Namespace(path_type="Linear", model="SiT-S/2", num_classes=6)}, path)
