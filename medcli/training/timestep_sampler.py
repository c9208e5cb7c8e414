"""Importance sampling of timesteps by their losses, as in guided-diffusion and EDT. Source: edt-facts 4.

Dimension key: T timesteps, L losses kept of each, B batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

HISTORY_PER_TERM = 10
"""Recent losses kept for each timestep."""
UNIFORM_PROB = 0.001
"""Share of the probability spread uniformly over timesteps."""


class LossSecondMomentResampler:
    """Draw timesteps with probability proportional to the root mean square of their recent losses.

    Uniform until every timestep has ten losses.

    Args:
        num_timesteps: T.
    """

    def __init__(self, num_timesteps: int) -> None:
        self.losses_TL = torch.zeros(num_timesteps, HISTORY_PER_TERM, dtype=torch.float64)
        self.counts_T = torch.zeros(num_timesteps, dtype=torch.long)

    def update(self, t_B: Tensor, loss_B: Tensor) -> None:
        """Add unweighted losses, in order; a timestep may occur more than once."""
        for t, loss in zip(t_B.tolist(), loss_B.tolist(), strict=True):
            # Overwrites the oldest of the ten; their order does not matter.
            self.losses_TL[t, self.counts_T[t] % HISTORY_PER_TERM] = loss
            self.counts_T[t] += 1

    def weights(self) -> Tensor:
        """(T,) float64 probabilities."""
        num_timesteps = len(self.counts_T)
        if (self.counts_T < HISTORY_PER_TERM).any():
            return torch.full((num_timesteps,), 1 / num_timesteps, dtype=torch.float64)
        root_T = self.losses_TL.square().mean(dim=1).sqrt()
        return root_T / root_T.sum() * (1 - UNIFORM_PROB) + UNIFORM_PROB / num_timesteps

    def sample(self, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
        """Map uniform numbers in (0, 1) to timesteps.

        Returns:
            (B,) int64 timesteps, and (B,) float64 importance weights 1 / (T p_t) that keep the loss's mean.
        """
        prob_T = self.weights()
        t_B = torch.searchsorted(prob_T.cumsum(0), uniform_B.double()).clamp(max=len(prob_T) - 1)
        return t_B, 1 / (len(prob_T) * prob_T[t_B])
