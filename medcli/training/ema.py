"""Exponential moving average of the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Ema:
    """A float32 shadow of every parameter, updated after each optimiser step.

    Args:
        model: Its current weights are the starting point.
        decay: Share of the shadow kept at each update, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {name: value.detach().float().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the shadow towards the model: shadow <- decay shadow + (1 - decay) weights."""
        weights: list[Tensor] = [value.detach().float() for value in model.parameters()]
        torch._foreach_lerp_(list(self.shadow.values()), weights, 1 - self.decay)
