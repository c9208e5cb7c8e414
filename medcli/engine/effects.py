"""Settings of a sampling plan that can have no effect, found before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from medcli.diffusion.steps import build_sampler
from medcli.engine.batched_rule import num_deciding
from medcli.engine.default_thresholds import with_default_thresholds
from medcli.engine.guidance_phases import Phase, phases
from medcli.engine.plan import SamplingPlan
from medcli.errors import ConfigError
from medcli.ladder import listing
from medcli.schedule.spec import DEFAULT_RHO, Schedule
from medcli.settings.sampler import ADAPTIVE_SOLVERS, SamplerConfig


def check_effects(plan: SamplingPlan) -> None:
    """Refuse guidance that no step applies, and mediator counts of a timed schedule that no step uses.

    Raises:
        ConfigError: Naming the setting and a value that has an effect.
    """
    is_adaptive = plan.sampler.solver in ADAPTIVE_SOLVERS
    sampler = None if is_adaptive else build_sampler(plan.sampler, rows=plan.rows)
    num_steps = 1 if sampler is None else sampler.num_steps
    guidance = plan.guidance
    is_idle = not guidance.is_on or (sampler is not None and not (phases(guidance, sampler) == Phase.INSIDE).any())
    if guidance.scale != 1.0 and is_idle:
        low, high = guidance.interval
        raise ConfigError(
            f"--cfg-interval {low:g},{high:g} contains the start of none of the {num_steps} solver steps, "
            f"so guidance is never on",
            hint="use a wider interval such as --cfg-interval 0.2,0.8, or --cfg-scale 1 for no guidance",
        )
    schedule = plan.schedule
    if schedule.is_timed and not is_adaptive:
        starts = [next((k for k in range(num_steps) if k / num_steps >= at), num_steps) for at in schedule.at]
        for count, (first, end) in zip(schedule.counts, pairwise([0, *starts, num_steps]), strict=True):
            if first == end:
                raise ConfigError(
                    f"--at leaves none of the {num_steps} solver steps to {count or 'full attention'}"
                    f"{' mediators' if count else ''}",
                    hint=f"starts must be at least {1 / num_steps:.2g} apart and from 0 and 1; or use more --steps",
                )


def unreachable_moves(plan: SamplingPlan) -> str | None:
    """Return why the dynamic schedule can never move an image, in words; None if it can, or is not dynamic."""
    if not plan.schedule.is_dynamic or plan.sampler.solver in ADAPTIVE_SOLVERS:
        return None
    sampler, warmup = build_sampler(plan.sampler), plan.schedule.warmup_steps
    # The jump from the initial noise is not observed; the warm-up is, and decides nothing.
    if warmup + 1 < num_deciding(sampler):
        return None
    return (
        f"the dynamic schedule can never move: {sampler.num_steps} solver steps leave none "
        f"after a warm-up of {warmup} (--warmup-steps)"
    )


def unreached_counts(schedule: Schedule, sampler: SamplerConfig, switch_steps: Sequence[tuple[int, ...]]) -> str | None:
    """Return which counts of a dynamic schedule no image reached, and thresholds that would be; None if none or static.

    Args:
        switch_steps: Moves of each image.
    """
    farthest = max(map(len, switch_steps), default=0)
    missed = schedule.counts[farthest + 1 :]
    if not schedule.is_dynamic or not missed or not switch_steps:
        return None
    mediators = listing(tuple(filter(None, missed)))
    names = [*([f"{mediators} mediators"] if mediators else []), *(["full attention"] if 0 in missed else [])]
    given, fitting = (
        ",".join(f"{value:g}" for value in rho) for rho in (schedule.rho, _fitting_thresholds(schedule, sampler))
    )
    ways = [
        *([f"--rho {fitting}"] if fitting not in ("", given) else []),
        f"--schedule timed --at {evenly(len(schedule.counts))}",
    ]
    return (
        f"no image ever reached {' or '.join(names)}: changes do not fall below --rho {given} here; "
        f"try {' or '.join(ways)}"
    )


def evenly(num_counts: int) -> str:
    """Return `--at` of a timed schedule that gives each count as many steps."""
    return ",".join(f"{place / num_counts:.2g}" for place in range(1, num_counts))


def _fitting_thresholds(schedule: Schedule, sampler: SamplerConfig) -> tuple[float, ...]:
    """Return thresholds that images do pass; empty if none are known."""
    plain = DEFAULT_RHO.get(len(schedule.counts))
    if plain is None:
        return ()
    fitting = with_default_thresholds(replace(schedule, rho=plain), sampler).rho
    return () if fitting == plain else fitting


def refuse_unreachable_moves(plan: SamplingPlan) -> None:
    """Refuse a dynamic schedule that can never move an image.

    Raises:
        ConfigError: Naming the warm-up and the steps.
    """
    if problem := unreachable_moves(plan):
        fewest = num_deciding(build_sampler(plan.sampler)) - 2
        fitting = f"--warmup-steps {fewest} or less, or " if fewest >= 1 else ""
        raise ConfigError(problem, hint=f"use {fitting}more --steps")
