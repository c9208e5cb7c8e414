"""Sampling runs as a timed group: the engine with full attention and with mediators."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from medcli.config import ModelConfig
from medcli.engine.cost import done_gmacs, pass_gmacs
from medcli.engine.effects import refuse_unreachable_moves
from medcli.engine.generate import generate
from medcli.engine.networks import Guidance, LadderNetwork
from medcli.engine.plan import FinishedImage, Labels, SamplingPlan
from medcli.errors import ConfigError
from medcli.schedule.spec import FULL, Schedule, static
from medcli.settings.costs import LoopSettings
from medcli.settings.sampler import SamplerConfig
from medcli.workflows.bench.variants import DENSE, TimedVariant

ENGINE = "engine"
"""The sampling engine with mediators."""


def loop_plan(config: ModelConfig, settings: LoopSettings, batch_size: int) -> SamplingPlan | None:
    """Build the sampling plan: the papers' SDE, with a dynamic schedule if the ladder has several counts.

    Args:
        config: The network.
        settings: Settings of the runs.
        batch_size: Number of images of a network call.

    Returns:
        None if no runs are requested, or the family is not SiT.

    Raises:
        ConfigError: If the settings contradict each other or the ladder.
    """
    if not settings.steps or config.family != "sit":
        return None
    plan = SamplingPlan(
        sampler=SamplerConfig(steps=settings.steps),
        schedule=_schedule(config.mediators, settings),
        labels=Labels(classes=tuple(range(config.num_classes))),
        guidance=Guidance(),
        batch_size=batch_size,
    )
    refuse_unreachable_moves(plan)
    return plan


def _schedule(ladder: tuple[int, ...], settings: LoopSettings) -> Schedule:
    if len(ladder) < 2:
        if settings.rho is not None:
            raise ConfigError("--rho needs a ladder of at least two counts", hint="try --mediators 4,16,64")
        return static(ladder[0]) if ladder else FULL
    rho = settings.rho
    if rho is None:
        rho = even_rho(len(ladder), settings.steps, settings.warmup_steps)
    return Schedule(kind="dynamic", counts=ladder, rho=rho, warmup_steps=settings.warmup_steps)


def even_rho(num_counts: int, steps: int, warmup_steps: int) -> tuple[float, ...]:
    """Choose thresholds that give each count about the same number of steps when the weights are random.

    With random weights a step changes the state by little more than its noise, of amplitude sqrt(2 (1 - t) dt)
    (reference-facts 5.5), so the step whose distance falls below a threshold is known in advance.

    Args:
        num_counts: Length of the ladder, at least 2.
        steps: Number of solver steps.
        warmup_steps: Number of distances in the baseline.

    Returns:
        Falling thresholds for the mean absolute difference, one fewer than the counts.

    Raises:
        ConfigError: If there are too few steps to reach the last count.
    """
    fewest = warmup_steps + num_counts + 1
    if steps < fewest:
        raise ConfigError(
            f"--steps {steps}: too few to climb a ladder of {num_counts} counts", hint=f"try --steps {fewest}, or --rho"
        )
    stride = (1 - SamplerConfig(steps=steps).last_step_size) / (steps - 1)

    def amplitude(step: float) -> float:
        return math.sqrt(1 - step * stride)

    baseline = sum(amplitude(step) for step in range(1, warmup_steps + 1)) / warmup_steps
    places = range(1, num_counts)
    # A move takes effect a step after the one that triggers it, and each needs a step of its own.
    latest = [steps - 1 - num_counts + place for place in places]
    triggers = [
        min(max(round(place * steps / num_counts) - 1, warmup_steps + place), last)
        for place, last in zip(places, latest, strict=True)
    ]
    return tuple(amplitude(trigger - 0.5) / baseline for trigger in triggers)


def loop_variants(
    networks: Mapping[int, LadderNetwork],
    plan: SamplingPlan,
    num_images: int,
    *,
    device: torch.device,
    dtype: str,
    compiled: bool,
) -> list[TimedVariant]:
    """List the sampling runs: full attention and, if the plan has mediators, the plan's schedule.

    Args:
        networks: The network at each count, 0 for full attention.
        plan: How to sample.
        num_images: Number of images of a run.
        device: Where the networks are.
        dtype: Name of the networks' number format.
        compiled: True: the networks are compiled.
    """

    def variant(name: str, schedule: Schedule) -> TimedVariant:
        used, own = [networks[count] for count in schedule.counts], replace(plan, schedule=schedule)
        config, halves = networks[0].config, plan.guidance.num_halves

        def run() -> Sequence[FinishedImage]:
            return list(generate(used, own, range(num_images), device=device))

        return TimedVariant(
            name=name,
            mediators=tuple(count for count in schedule.counts if count),
            num_images=num_images,
            dtype=dtype,
            compiled=compiled,
            gmacs_per_call=tuple(halves * pass_gmacs(config, count) for count in schedule.counts),
            executed_per_call=tuple(halves * done_gmacs(config, count) for count in schedule.counts),
            run=run,
        )

    schedule = plan.schedule
    return [variant(DENSE, FULL), *([variant(ENGINE, schedule)] if schedule.kind != "full" else [])]
