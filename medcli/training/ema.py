"""Exponential moving average of the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medcli.training.distributed import local


class Ema:
    """A float32 shadow of every trained parameter, updated after each optimiser step.

    Frozen parameters are their own average.

    Args:
        model: On its device, sharded if it is to be; its current weights are the starting point.
        decay: Share of the shadow kept at each update, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        trained = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
        self.shadow = {name: value.float().clone() for name, value in trained.items()}
        self._share = 1 - decay
        self._moved = [local(value) for value in self.shadow.values()]
        self._weights = [local(value) for value in trained.values()]

    @torch.no_grad()
    def update(self) -> None:
        """Move the shadow towards the model: shadow <- decay shadow + (1 - decay) weights."""
        torch._foreach_lerp_(self._moved, self._weights, self._share)

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The average of every parameter by its name, frozen ones included; no copies."""
        return {name: self.shadow.get(name, value.detach()) for name, value in model.named_parameters()}
