"""Default thresholds of the dynamic schedule, from the noise that a sampler adds.

In many steps the change of an image over a step is mostly noise, so its ratio to the first changes, which the rule
compares with rho, is that of the noise amplitudes; in few steps the drift counts too (docs/schedules.md). The papers'
0.3,0.1 are passed at t = 0.63 and 0.80 of the path under the diffusion form `decreasing` with l1; here thresholds are
chosen that are passed at the same times under another form, distance, family or number of steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from medcli.diffusion.steps import AncestralSampler, TransportSampler, build_sampler
from medcli.schedule.spec import DistanceName, Schedule
from medcli.settings.sampler import SamplerConfig

# Dimension key: L solver steps.

POWERS: dict[DistanceName, int] = {"l1": 1, "l2": 2}
"""Power of the noise amplitude to which a distance is proportional."""
DIGITS = 2


def with_default_thresholds(schedule: Schedule, config: SamplerConfig) -> Schedule:
    """Return a dynamic schedule with the thresholds that images pass at the times the papers' are meant for.

    They have two digits. A sampler without noise, with noise that does not fall, or with too few steps, has none: the
    schedule is returned as it is.

    Args:
        schedule: The schedule, with the thresholds of `DEFAULT_RHO`.
    """
    steps, warmup_steps = _noisy_steps(config), schedule.warmup_steps
    if steps is None or len(steps.time_L) <= warmup_steps + 1:
        return schedule
    power = POWERS[schedule.distance]
    # The jump to the first state is not observed.
    change_L = steps.change_L.pow(power)
    baseline = change_L[1 : warmup_steps + 1].mean()
    nearest = [int((steps.time_L - _passing_time(rho)).abs().argmin()) for rho in schedule.rho]
    rho = tuple(_rounded(float(change_L[step] / baseline)) for step in nearest)
    falls = all(0 < later < earlier for earlier, later in pairwise((1.0, *rho)))
    return replace(schedule, rho=rho) if falls else schedule


@dataclass(frozen=True, slots=True)
class _NoisySteps:
    """Observed steps of a sampler."""

    time_L: Tensor
    """Time of the path, 0 noise to 1 data, at which each starts; of DDPM its share of the steps."""
    change_L: Tensor
    """Expected size of its change: noise and drift."""


def _passing_time(rho: float) -> float:
    """Return the time at which l1 passes a threshold under `decreasing`, whose amplitude is (1 + cos(pi t)) / 2."""
    return math.acos(2 * rho - 1) / math.pi


def _noisy_steps(config: SamplerConfig) -> _NoisySteps | None:
    """Return the observed steps of a sampler that adds noise in steps of one size; None for others."""
    if not config.can_be_observed:
        return None
    sampler = build_sampler(config)
    if isinstance(sampler, AncestralSampler):
        noise_L = torch.exp(sampler.tables.posterior_log_variance / 2).flip(0)
        return _NoisySteps(torch.arange(len(noise_L)) / len(noise_L), (noise_L**2 + 1 / len(noise_L) ** 2).sqrt())
    if not isinstance(sampler, TransportSampler) or not sampler.noisy or sampler.num_observed < 2:
        return None
    table, observed = sampler.table, sampler.num_observed
    variance_L = (table.noise_before_L**2 + table.noise_after_L**2)[:observed]
    time_L = torch.tensor(sampler.times[:observed])
    # Latents and noise have unit size, so velocities of about 1.
    return _NoisySteps(time_L, (variance_L + (time_L[1] - time_L[0]) ** 2).sqrt())


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
