"""Timesteps drawn where the loss is large, as EDT was trained. Source: edt-facts 4."""

from __future__ import annotations

import torch
from torch import Tensor

# Dimension key: T timesteps, L losses kept of each, B batch.

NUM_KEPT = 10
"""Losses of a timestep that count, the latest."""
UNIFORM_SHARE = 0.001
"""Share of the probability that all timesteps have alike."""


class LossSecondMoment:
    """Probabilities of timesteps in proportion to the root mean square of their latest losses.

    Until every timestep has ten losses, all are equally likely.

    Args:
        num_timesteps: T.
    """

    def __init__(self, num_timesteps: int) -> None:
        self.losses_TL = torch.zeros(num_timesteps, NUM_KEPT, dtype=torch.float64)
        self.seen_T = torch.zeros(num_timesteps, dtype=torch.long)

    def observe(self, t_B: Tensor, loss_B: Tensor) -> None:
        """Note unweighted losses, in order; a timestep may stand there more than once."""
        for t, loss in zip(t_B.tolist(), loss_B.tolist(), strict=True):
            # The oldest of the ten gives way: their order does not matter.
            self.losses_TL[t, self.seen_T[t] % NUM_KEPT] = loss
            self.seen_T[t] += 1

    def probabilities(self) -> Tensor:
        """(T,) float64, summing to 1."""
        num_timesteps = len(self.seen_T)
        if (self.seen_T < NUM_KEPT).any():
            return torch.full((num_timesteps,), 1 / num_timesteps, dtype=torch.float64)
        root_T = self.losses_TL.square().mean(dim=1).sqrt()
        return root_T / root_T.sum() * (1 - UNIFORM_SHARE) + UNIFORM_SHARE / num_timesteps

    def draw(self, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
        """Turn uniform numbers in (0, 1) into timesteps.

        Returns:
            (B,) int64 timesteps, and (B,) float64 importance weights 1 / (T p_t) that keep the loss's mean.
        """
        chance_T = self.probabilities()
        t_B = torch.searchsorted(chance_T.cumsum(0), uniform_B.double()).clamp(max=len(chance_T) - 1)
        return t_B, 1 / (len(chance_T) * chance_T[t_B])
