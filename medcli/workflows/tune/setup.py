"""Resolve and check the settings of `tune` against the checkpoint and its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from medcli.config import ModelConfig
from medcli.cost.macs import GIGA, closed_form_macs
from medcli.diffusion.multistep import multistep_rows
from medcli.diffusion.steps import build_sampler
from medcli.engine.fine_path import fine_plan, follows_path
from medcli.engine.guidance_phases import step_passes
from medcli.engine.plan import FAMILY_SAMPLERS, SamplingPlan
from medcli.engine.plan_file import PlanFile, follow, plan_file
from medcli.errors import ConfigError
from medcli.network import Network
from medcli.runtime.json_records import read_json
from medcli.schedule.spec import FULL, Schedule, check_held
from medcli.settings.analysis import TuneRequest
from medcli.settings.sampler import PAPER_STEPS
from medcli.tuning.candidates import (
    ALWAYS,
    CALLS,
    FEWEST_STEPS,
    MOST_CALLS,
    Candidate,
    Interval,
    Passes,
    calls_up_to,
)
from medcli.tuning.store import SETTINGS
from medcli.workflows.sample.few_calls import with_few_calls
from medcli.workflows.sample.settings import image_settings, set_up
from medcli.workflows.tune.request import Budget, budget_of


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneSetup:
    """A request with all values resolved."""

    request: TuneRequest
    budget: Budget | None
    network: Network
    counts: tuple[int, ...]
    """Mediator counts to try."""
    baseline: SamplingPlan
    """The model's SDE or DDPM, 250 steps, full attention."""
    few: SamplingPlan
    """The candidates' solver, full attention; they replace its steps, schedule and guidance interval."""
    exact: SamplingPlan | None
    """Plan of the images that errors are distances from; None: there is none."""
    device: torch.device
    reference: str | None
    """Reference of FID."""
    settings: Mapping[str, Any]
    """All settings that decide measurements."""

    @property
    def config(self) -> ModelConfig:
        """The architecture."""
        return self.network.config

    @property
    def numbers(self) -> range:
        """Indices of the images of each candidate."""
        return range(self.request.sampling.num_images)

    @property
    def is_guided(self) -> bool:
        """True if classifier-free guidance is on."""
        return self.few.guidance.is_on

    @property
    def macs_a_pass(self) -> dict[int, int]:
        """Multiply-adds of a forward pass at each count, 0 for full attention."""
        return {count: int(closed_form_macs(self.config, num_mediators=count)) for count in (0, *self.counts)}

    def plan_of(self, candidate: Candidate) -> SamplingPlan:
        """Return the sampling plan of a candidate."""
        sampler = replace(self.few.sampler, steps=candidate.steps)
        return replace(
            self.few,
            sampler=sampler,
            rows=multistep_rows(sampler) if sampler.is_multistep else None,
            schedule=candidate.schedule,
            guidance=replace(self.few.guidance, interval=candidate.interval),
        )

    def passes_of(self) -> Passes:
        """Return the function that gives the forward passes of each step, from steps and guidance interval."""

        @cache
        def passes(steps: int, interval: Interval) -> tuple[int, ...]:
            if self.few.sampler.is_multistep and (interval == ALWAYS or not self.is_guided):
                return (1 + self.is_guided,) * steps
            plan = self.plan_of(Candidate(steps, FULL, interval))
            return tuple(step_passes(build_sampler(plan.sampler, rows=plan.rows), plan.guidance).tolist())

        return passes

    def file_of(self, plan: SamplingPlan) -> PlanFile:
        """Return the plan file of a plan."""
        return plan_file(plan, self.config)

    def followed(self, file: PlanFile) -> SamplingPlan:
        """Return the plan that `medcli sample --plan` makes of a plan file."""
        made = follow(file, self.request.output, self.config, {})
        return replace(self.few, sampler=made.sampler, rows=made.rows, schedule=made.schedule, guidance=made.guidance)


def set_up_tuning(request: TuneRequest, device: torch.device) -> TuneSetup:
    """Resolve and check a request; of the weights only sampled bytes are read.

    Raises:
        MedcliError: If the checkpoint can't be read, or values contradict each other or the model.
    """
    budget, sampling = budget_of(request), replace(request.sampling, schedule="full")
    plain = set_up(replace(sampling, sampler=None, solver=None, steps=None), device.type)
    network = plain.networks[0]
    first = FAMILY_SAMPLERS[network.config.family][0]
    baseline = set_up(replace(sampling, sampler=first, solver=None, steps=PAPER_STEPS), device.type, earlier=plain)
    start = set_up(with_few_calls(sampling, network.config, FEWEST_STEPS), device.type, earlier=plain)
    held = network.config.mediators
    counts = held if request.mediators is None else request.mediators
    check_held(counts, held)
    if tuple(sorted(set(counts) - {0})) != counts:
        raise ConfigError("--mediators must name rising counts, without full", hint="full attention is always tried")
    # As `sample` has it: an image's rounding follows the batch size.
    size = min(start.plan.batch_size, sampling.num_images)
    settings = image_settings(start, sampling, earlier=recorded_checkpoints(request.output))
    exact = exact_plan(start.plan, is_of_given_steps=sampling.steps is not None)
    return TuneSetup(
        request=request,
        budget=budget,
        network=network,
        counts=counts,
        baseline=replace(baseline.plan, batch_size=size),
        few=replace(start.plan, batch_size=size),
        exact=None if exact is None else replace(exact, batch_size=size),
        device=device,
        reference=request.reference or network.opened.info.reference,
        settings={
            **settings,
            "sampler": replace(start.plan.sampler, steps=FEWEST_STEPS).to_json(),
            "baseline": baseline.plan.sampler.to_json(),
            "fine": None if exact is None else exact.sampler.to_json(),
            "batch_size": size,
            "num_images": sampling.num_images,
        },
    )


def exact_plan(plan: SamplingPlan, *, is_of_given_steps: bool) -> SamplingPlan | None:
    """Return the plan of the images from which errors are distances; None if there are none.

    Without noise in the sampler it is the fine path. With it images of other steps have other noise: exact are those of
    full attention at the same steps.

    Args:
        plan: The candidates' solver, full attention.
        is_of_given_steps: True if all candidates have its steps.
    """
    if follows_path(plan.sampler):
        return fine_plan(plan)
    return plan if is_of_given_steps else None


def cost_of(setup: TuneSetup, candidate: Candidate, passes_of: Passes) -> float:
    """Return a candidate's cost in the unit of the budget that is known before running: calls, else GMACs."""
    if setup.budget is not None and setup.budget.unit == "calls":
        return sum(passes_of(candidate.steps, ALWAYS)) // (1 + setup.is_guided)
    return candidate.macs(setup.macs_a_pass, passes_of) / GIGA


def steps_to_try(
    setup: TuneSetup, baseline: float, schedule: Schedule, interval: Interval, passes_of: Passes
) -> list[int]:
    """List the numbers of steps to try: those that the budget allows, as far as that is known before running.

    Args:
        baseline: GMACs of an image of the dense baseline.
        schedule: Networks by progress.
        interval: Guidance interval.
        passes_of: Returns the passes of each step.
    """
    budget, given = setup.budget, setup.request.sampling.steps
    calls_of = {
        steps: sum(passes_of(steps, ALWAYS)) // (1 + setup.is_guided)
        for steps in ((given,) if given else range(FEWEST_STEPS, MOST_CALLS + 2))
    }

    def allows(steps: int) -> bool:
        cost = cost_of(setup, Candidate(steps, schedule, interval), passes_of)
        return budget is None or budget.unit == "seconds" or budget.allows(cost, baseline)

    allowed = [steps for steps, calls in calls_of.items() if (given or calls <= MOST_CALLS) and allows(steps)]
    if given or not allowed:
        return allowed
    if budget is None:
        tried: tuple[int, ...] = CALLS
    elif budget.unit == "seconds":
        tried = (calls_of[allowed[0]], *CALLS, MOST_CALLS)
    else:
        tried = calls_up_to(calls_of[allowed[-1]])
    nearest = [[steps for steps in allowed if calls_of[steps] <= calls] for calls in tried]
    return list(dict.fromkeys(steps[-1] for steps in nearest if steps))


def recorded_checkpoints(output: Path) -> object:
    """Return what the settings of an existing tuning folder say of its checkpoints; None without readable ones."""
    try:
        settings = read_json(output / SETTINGS)
    except (OSError, ValueError, RecursionError):  # reported by the store
        return None
    return settings.get("checkpoints") if isinstance(settings, dict) else None
