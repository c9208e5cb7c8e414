"""Samplers of few network calls, named to runs of many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from medcli.config import ModelConfig
from medcli.diffusion.steps import build_sampler
from medcli.engine.effects import evenly
from medcli.engine.plan import FAMILY_SAMPLERS
from medcli.runtime.reporting import Reporter
from medcli.settings.sampler import ADAPTIVE_SOLVERS, FEW_CALL_SOLVERS, SamplerConfig, SamplerSettings
from medcli.settings.sampling import SampleRequest
from medcli.workflows.sample.defaults import sampling_defaults
from medcli.workflows.sample.plan import choose_sampler
from medcli.workflows.sample.settings import SampleSetup

MANY_CALLS = 100
"""Network calls of an image beyond which a run is told of solvers that need few."""
FEW_CALLS = 20
"""Network calls of the solver it is told of, unless the checkpoint has its own."""

Asked = TypeVar("Asked", bound=SamplerSettings)


def with_few_calls(asked: Asked, config: ModelConfig, num_calls: int) -> Asked:
    """Fill in the family's sampler without noise, its solver for few network calls, and their number."""
    name = asked.sampler or FAMILY_SAMPLERS[config.family][1]
    solver, steps = asked.solver or FEW_CALL_SOLVERS.get(name), asked.steps or num_calls
    return replace(asked, sampler=name, solver=solver, steps=steps)


def few_calls_sampler(settings: SamplerSettings, config: ModelConfig, defaults: Mapping[str, Any]) -> SamplerConfig:
    """Choose the sampler of few network calls of a family: the checkpoint's own, else 20 calls of a multistep solver.

    Args:
        settings: Path and prediction, if they are not the checkpoint's.
        config: Tells the family.
        defaults: From the checkpoint.
    """
    name = FAMILY_SAMPLERS[config.family][1]
    own = choose_sampler(replace(settings, sampler=name), config, defaults)
    if own.is_multistep:
        return own
    return replace(own, solver=FEW_CALL_SOLVERS[name], steps=FEW_CALLS)


def hint_at_fewer_calls(setup: SampleSetup, request: SampleRequest, reporter: Reporter) -> None:
    """Name the flags of a sampler of few network calls, and its saving, to a run of many."""
    sampler, schedule = setup.plan.sampler, setup.plan.schedule
    if sampler.solver in ADAPTIVE_SOLVERS or (calls := build_sampler(sampler).nfe) <= MANY_CALLS:
        return
    own = few_calls_sampler(SamplerSettings(), setup.config, sampling_defaults(setup.networks[0]))
    name = own.sampler
    # Flags of this run that would keep the other sampler from its own defaults.
    words = [f"--sampler {name}"]
    words += [f"--solver {own.solver}"] if request.solver or name == "ddim" else []
    words += [f"--steps {own.steps}"] if request.steps or name == "ddim" else []
    if schedule.is_dynamic:
        words += ["--schedule timed --at", evenly(len(schedule.counts))]
    saving = f"{100 * (1 - own.steps / calls):.0f} % fewer"
    reporter.note(f"{calls} network calls an image; {' '.join(words)} makes {own.steps}, {saving}")
