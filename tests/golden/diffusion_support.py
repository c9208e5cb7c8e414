"""Shared by the golden tests of diffusion: files, the tiny networks and the relative-to-largest comparison."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from medcli.config import ModelConfig
from medcli.diffusion.guidance import combine
from medcli.diffusion.steps import Predict
from medcli.model.backbone import DiffusionTransformer

DATA = Path(__file__).parent / "data"


def tensors(name: str) -> dict[str, Tensor]:
    return load_file(DATA / f"{name}.safetensors")


def settings(name: str) -> Any:
    return json.loads((DATA / f"{name}.json").read_text())


def assert_close_to_largest(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """The golden README's safest test of long trajectories: max|a-b| / max|b|."""
    assert actual.shape == expected.shape
    assert torch.isfinite(actual).all()
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def tiny_network(family: str, model: dict[str, Any], weights: str) -> DiffusionTransformer:
    """A random network of the goldens from its settings and weights file."""
    config = ModelConfig(
        family=family,
        hidden_size=model["hidden_size"],
        depth=model["depth"],
        num_heads=model["num_heads"],
        patch_size=model["patch_size"],
        latent_size=model["input_size"],
        in_channels=model["in_channels"],
        mlp_ratio=model["mlp_ratio"],
        num_classes=model["num_classes"],
        learn_sigma=model["learn_sigma"],
    )
    network = DiffusionTransformer(config)
    network.load_state_dict(tensors(weights))
    return network.requires_grad_(False)


def stub(prediction: str) -> Predict:
    """The goldens' closed-form network, negated for score prediction."""
    sign = -1.0 if prediction == "score" else 1.0
    return lambda x, t: sign * (0.7 * x - 0.3 * t.view(-1, 1, 1, 1) + 0.05)


def labelled(network: DiffusionTransformer, labels: list[int], cfg_scale: float | None = None) -> Predict:
    """The network under fixed labels. With a scale, `labels` holds the conditional ones, then as many null ones.

    The references double the state and drop half of it at the end; the same numbers come from two calls on one state.
    """
    if cfg_scale is None:
        y = torch.tensor(labels)
        return lambda x, t: network(x, t, y)
    y_cond, y_null = torch.tensor(labels).chunk(2)
    channels = network.config.in_channels

    def guided(x: Tensor, t: Tensor) -> Tensor:
        return combine(network(x, t, y_cond), network(x, t, y_null), cfg_scale, latent_channels=channels)

    return guided


class CallCounter:
    """Wraps a network and counts its calls."""

    def __init__(self, predict: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.predict = predict
        self.calls = 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return self.predict(x, t)
