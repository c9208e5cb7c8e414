"""Exponential moving average of the weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from medcli.training.distributed import local


def decay_at(decay: float, step: int) -> float:
    """Return the decay of an average at a step, from 1: smaller at first, so that it forgets the initial weights.

    It is (1 + step) / (10 + step) until that exceeds `decay`: the average spans about the last tenth of the steps, and
    the weights that it started with are all but gone after some ten.
    """
    return min(decay, (1 + step) / (10 + step))


class Ema:
    """Float32 moving average of every trained parameter, updated after each optimizer step.

    Frozen parameters are their own average.

    Args:
        model: On its device, already sharded if at all; its weights are the initial averages.
        decay: Decay in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        trained = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
        self.shadow = {name: value.float().clone() for name, value in trained.items()}
        self._decay = decay
        self._moved = [local(value) for value in self.shadow.values()]
        self._weights = [local(value) for value in trained.values()]

    def update(self, step: int | None = None) -> None:
        """Update: average <- d average + (1 - d) weights.

        Args:
            step: Number of the optimizer step, from 1, by which d = `decay_at`; None: d is the decay.
        """
        decay = self._decay if step is None else decay_at(self._decay, step)
        get_ema_multi_avg_fn(decay)(self._moved, self._weights, None)

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the average of every parameter by name, frozen ones included; no copies."""
        return {name: self.shadow.get(name, value.detach()) for name, value in model.named_parameters()}
