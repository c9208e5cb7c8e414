"""Phases of sampling relative to the guidance interval: before, inside and after.

Progress counts solver steps: of L steps, step k starts at progress k / L, so 0 is the start of the first and 1 the end
of the last. A step is guided, in all its network calls, if it starts inside the half-open interval. So [0, 1] guides
every step, an empty interval none, and two adjacent intervals share no step.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

from medcli.diffusion.steps import Sampler
from medcli.engine.networks import Guidance

# Dimension key: L solver steps.


class Phase(IntEnum):
    """Phase of an image, in order of time; the null half is computed only inside."""

    BEFORE = 0
    INSIDE = 1
    AFTER = 2


def phases(guidance: Guidance, num_steps: int) -> Tensor:
    """Return the phase of each solver step, (L,) int64; without guidance all are `BEFORE`."""
    start_L = torch.arange(num_steps, dtype=torch.float64) / num_steps
    if not guidance.is_on:
        return torch.full((num_steps,), Phase.BEFORE)
    low, high = guidance.interval
    return (start_L >= low).long() + (start_L >= high).long()


def null_calls(sampler: Sampler, guidance: Guidance) -> Tensor:
    """Return the number of network calls of each solver step that also run the null half, (L,) int64."""
    calls_L = torch.tensor([sampler.calls(step) for step in range(sampler.num_steps)])
    return calls_L * (phases(guidance, sampler.num_steps) == Phase.INSIDE)


def step_passes(sampler: Sampler, guidance: Guidance) -> Tensor:
    """Return the forward passes of each solver step, (L,) int64: its network calls, guided ones twice."""
    calls_L = torch.tensor([sampler.calls(step) for step in range(sampler.num_steps)])
    return calls_L + null_calls(sampler, guidance)


def num_passes(sampler: Sampler, guidance: Guidance) -> int:
    """Return the total number of forward passes of an image."""
    return int(step_passes(sampler, guidance).sum())
