"""Resolve and check the settings of `tune` against the checkpoint and its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from medcli.config import ModelConfig
from medcli.cost.macs import closed_form_macs
from medcli.diffusion.multistep import multistep_rows
from medcli.diffusion.steps import build_sampler
from medcli.engine.fine_path import fine_plan
from medcli.engine.guidance_phases import step_passes
from medcli.engine.plan import FAMILY_SAMPLERS, SamplingPlan
from medcli.engine.plan_file import PlanFile, follow, plan_file
from medcli.errors import ConfigError
from medcli.network import Network
from medcli.runtime.json_records import read_json
from medcli.schedule.spec import FULL, check_held
from medcli.settings.analysis import TuneRequest
from medcli.settings.sampler import FEW_CALL_SOLVERS, PAPER_STEPS
from medcli.tuning.candidates import ALWAYS, CALLS, FEWEST_CALLS, MOST_CALLS, Candidate, Interval, Passes, calls_up_to
from medcli.tuning.store import SETTINGS
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
    """The solver of few calls, full attention; candidates replace its calls, schedule and guidance interval."""
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
        sampler = replace(self.few.sampler, steps=candidate.calls)
        return replace(
            self.few,
            sampler=sampler,
            rows=multistep_rows(sampler),
            schedule=candidate.schedule,
            guidance=replace(self.few.guidance, interval=candidate.interval),
        )

    def passes_of(self) -> Passes:
        """Return the function that gives the forward passes of each step, from calls and guidance interval."""

        @cache
        def passes(calls: int, interval: Interval) -> tuple[int, ...]:
            if interval == ALWAYS or not self.is_guided:
                return (1 + self.is_guided,) * calls
            plan = self.plan_of(Candidate(calls, FULL, interval))
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
    plain = set_up(sampling, device.type)
    network = plain.networks[0]
    first, few = FAMILY_SAMPLERS[network.config.family]
    baseline = set_up(replace(sampling, sampler=first, steps=PAPER_STEPS), device.type)
    start = set_up(replace(sampling, sampler=few, solver=FEW_CALL_SOLVERS[few], steps=FEWEST_CALLS), device.type)
    held = network.config.mediators
    counts = held if request.mediators is None else request.mediators
    check_held(counts, held)
    if tuple(sorted(set(counts) - {0})) != counts:
        raise ConfigError("--mediators must name rising counts, without full", hint="full attention is always tried")
    # As `sample` has it: an image's rounding follows the batch size.
    size = min(start.plan.batch_size, sampling.num_images)
    settings = image_settings(start, sampling, earlier=recorded_checkpoints(request.output))
    return TuneSetup(
        request=request,
        budget=budget,
        network=network,
        counts=counts,
        baseline=replace(baseline.plan, batch_size=size),
        few=replace(start.plan, batch_size=size),
        device=device,
        reference=request.reference or network.opened.info.reference,
        settings={
            **settings,
            "baseline": baseline.plan.sampler.to_json(),
            "fine": fine_plan(start.plan).sampler.to_json(),
            "batch_size": size,
            "num_images": sampling.num_images,
        },
    )


def calls_to_try(setup: TuneSetup, baseline: int, candidate: Candidate, passes_of: Passes) -> tuple[int, ...]:
    """List the numbers of calls to try: those that the budget allows, as far as that is known before running.

    Args:
        setup: The tuning.
        baseline: Multiply-adds of an image of the dense baseline.
        candidate: Schedule and interval; its calls do not matter.
        passes_of: Returns the passes of each step.
    """
    budget = setup.budget
    if budget is None:
        return CALLS
    if budget.kind == "seconds":
        return (FEWEST_CALLS, *CALLS, MOST_CALLS)
    if budget.kind == "calls":
        return calls_up_to(min(int(budget.value), MOST_CALLS))
    macs_a_pass, allowed = setup.macs_a_pass, 0
    for calls in range(FEWEST_CALLS, MOST_CALLS + 1):
        macs = replace(candidate, calls=calls).macs(macs_a_pass, passes_of)
        allowed = calls if budget.allows(macs, baseline) else allowed
    return calls_up_to(allowed)


def recorded_checkpoints(output: Path) -> object:
    """Return what the settings of an existing tuning folder say of its checkpoints; None without readable ones."""
    try:
        settings = read_json(output / SETTINGS)
    except (OSError, ValueError, RecursionError):  # reported by the store
        return None
    return settings.get("checkpoints") if isinstance(settings, dict) else None
