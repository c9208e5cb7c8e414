"""Phases of sampling relative to the guidance interval: before, inside and after.

A step starts at the path's time of its first network call, 0 (noise) to 1 (data); where times are integer timesteps, at
progress k / L for step k of L. It is guided, in all its network calls, if it starts inside the half-open interval. So
[0, 1] guides every step, an empty interval none, and two adjacent intervals share no step.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

from medcli.diffusion.steps import Sampler
from medcli.engine.networks import Guidance

# Dimension key: L solver steps.


SLACK = 5e-7
"""Rounding of float32 times and of an interval's ends: times that differ by less are equal."""


class Phase(IntEnum):
    """Phase of an image, in order of time; the null half is computed only inside."""

    BEFORE = 0
    INSIDE = 1
    AFTER = 2


def step_starts(sampler: Sampler) -> Tensor:
    """Return the start of each solver step on the scale of guidance intervals, (L,) float64 in [0, 1)."""
    times, num_steps = sampler.times, sampler.num_steps
    if times[0] <= times[-1]:
        return torch.tensor(times, dtype=torch.float64)
    return torch.arange(num_steps, dtype=torch.float64) / num_steps


def phases(guidance: Guidance, sampler: Sampler) -> Tensor:
    """Return the phase of each solver step, (L,) int64; without guidance all are `BEFORE`."""
    if not guidance.is_on or not guidance.is_partial:
        return torch.full((sampler.num_steps,), Phase.INSIDE if guidance.is_on else Phase.BEFORE)
    start_L = step_starts(sampler)
    low, high = guidance.interval
    return (start_L >= low - SLACK).long() + (start_L >= high - SLACK).long()


def null_calls(sampler: Sampler, guidance: Guidance) -> Tensor:
    """Return the number of network calls of each solver step that also run the null half, (L,) int64."""
    calls_L = torch.tensor([sampler.calls(step) for step in range(sampler.num_steps)])
    return calls_L * (phases(guidance, sampler) == Phase.INSIDE)


def step_passes(sampler: Sampler, guidance: Guidance) -> Tensor:
    """Return the forward passes of each solver step, (L,) int64: its network calls, guided ones twice."""
    calls_L = torch.tensor([sampler.calls(step) for step in range(sampler.num_steps)])
    return calls_L + null_calls(sampler, guidance)


def num_passes(sampler: Sampler, guidance: Guidance) -> int:
    """Return the total number of forward passes of an image."""
    return int(step_passes(sampler, guidance).sum())
