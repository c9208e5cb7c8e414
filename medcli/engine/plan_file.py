"""Plan files: how an image is made, call by call, as a small JSON file with a hash.

A plan holds times, solver rows, the network of each step and the steps that are guided. `tune` and
`sample --save-plan` write plans, `sample --plan` follows one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medcli.config import FAMILIES, ModelConfig
from medcli.diffusion.multistep import MultistepRows, MultistepWeights, multistep_rows
from medcli.diffusion.steps import build_sampler
from medcli.engine.guidance_phases import Phase, phases, step_starts
from medcli.engine.networks import ALWAYS, Guidance
from medcli.engine.plan import SamplingPlan
from medcli.errors import ConfigError, EnvironmentProblem
from medcli.runtime import files
from medcli.runtime.json_records import InvalidJson, as_record, read_json
from medcli.schedule.spec import Schedule
from medcli.settings.sampler import SamplerConfig

# Dimension key: L steps, J slopes of a step.

VERSION: Literal[1] = 1
FULL: Literal["full"] = "full"
MOST_SLOPES = 16
"""Slopes of a step at most: each is a latent of memory an image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRow:
    """One step of a multistep solver, see `medcli.diffusion.multistep`."""

    state: float
    noise: float
    weights: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanGuidance:
    """Guidance of a plan."""

    scale: float
    channels: int | None
    power: float | None = None
    by_step: tuple[bool, ...]
    """Per step, true if it is guided."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanFile:
    """Contents of a plan file.

    Raises:
        ConfigError: If the parts contradict each other.
    """

    medcli_plan: Literal[1]
    family: str
    channels: int
    """Latent channels of the model."""
    sampler: SamplerConfig
    times: tuple[float, ...]
    """Time of each step's first network call: rising in [0, 1) for SiT, falling timesteps for the other families."""
    rows: tuple[PlanRow, ...] | None = None
    """Rows of a multistep solver; None: those of the solver on these times."""
    networks: tuple[int | Literal["full"], ...] | None = None
    """Mediator count of each step; None for a dynamic schedule."""
    schedule: Schedule | None = None
    """A dynamic schedule; None: `networks` tells."""
    guidance: PlanGuidance | None = None
    sha256: str | None = None
    """Hash of the rest."""

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ConfigError(f"unknown family {self.family!r}")
        if not self.times:
            raise ConfigError("it has no steps")
        sign = 1 if self.sampler.sampler in ("sde", "ode") else -1
        if any(sign * (later - earlier) <= 0 for earlier, later in pairwise(self.times)):
            raise ConfigError(f"times must {'rise' if sign > 0 else 'fall'} from step to step")
        if sign > 0 and not 0 <= self.times[0] <= self.times[-1] <= 1:
            raise ConfigError("times must be in [0, 1]")
        for name in ("rows", "networks"):
            if (part := getattr(self, name)) is not None and len(part) != len(self.times):
                raise ConfigError(f"{name} has {len(part)} steps, times has {len(self.times)}")
        if self.guidance is not None and len(self.guidance.by_step) != len(self.times):
            raise ConfigError(f"guidance has {len(self.guidance.by_step)} steps, times has {len(self.times)}")
        if self.rows is not None and not self.sampler.is_multistep:
            raise ConfigError(f"rows are for multistep solvers, not for {self.sampler.solver}")
        if self.rows is not None and len({len(row.weights) for row in self.rows}) != 1:
            raise ConfigError("the rows have different numbers of weights")
        if (self.networks is None) == (self.schedule is None):
            raise ConfigError("either networks or a dynamic schedule must be given")
        if self.schedule is not None and not self.schedule.is_dynamic:
            raise ConfigError(f"its schedule is {self.schedule.kind}, expected dynamic")

    def to_json(self) -> dict[str, Any]:
        """Return JSON values with the hash."""
        guidance = self.guidance
        content = {
            "medcli_plan": VERSION,
            "family": self.family,
            "channels": self.channels,
            "sampler": self.sampler.to_json(),
            "times": list(self.times),
            "rows": None if self.rows is None else [asdict(row) | {"weights": list(row.weights)} for row in self.rows],
            "networks": None if self.networks is None else list(self.networks),
            "schedule": None if self.schedule is None else self.schedule.to_json(),
            "guidance": None if guidance is None else asdict(guidance) | {"by_step": list(guidance.by_step)},
        }
        return {**content, "sha256": _hash(content)}

    @property
    def text(self) -> str:
        """The file's text: sorted keys, the same for the same plan."""
        return json.dumps(self.to_json(), indent=1, sort_keys=True, allow_nan=False) + "\n"


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def read_plan(path: Path) -> PlanFile:
    """Read and check a plan file.

    Raises:
        ConfigError: If it is not a plan, or was changed after it was written.
        EnvironmentProblem: If it can't be read.
    """
    if not path.exists():
        raise ConfigError(f"{path} does not exist", hint="write a plan with medcli sample --save-plan or medcli tune")
    files.require_regular(path, ConfigError)
    try:
        values = read_json(path)
        plan = as_record(PlanFile, values)
    except InvalidJson as err:
        raise ConfigError(
            f"{path} is not a plan of medcli: {err}", hint="write one with medcli sample --save-plan or medcli tune"
        ) from err
    except OSError as err:
        raise EnvironmentProblem(f"{path} can't be read: {err.strerror}") from err
    if plan.sha256 is not None and plan.sha256 != plan.to_json()["sha256"]:
        raise ConfigError(
            f"{path} was changed after it was written: its sha256 is another one",
            hint="remove its sha256 to use it as it is",
        )
    return plan


def write_plan(path: Path, plan: PlanFile, *, force: bool = False) -> None:
    """Write a plan file; one with the same contents is left as it is.

    Raises:
        ConfigError: If another file is there.
        EnvironmentProblem: If it can't be written.
    """
    if path.is_file() and path.read_text(encoding="utf-8", errors="replace") == plan.text:
        return
    if path.exists() and not force:
        raise ConfigError(f"{path} already exists", hint="remove it, or name another file for the plan")
    files.write_text(path, plan.text, force=force)


def plan_file(plan: SamplingPlan, config: ModelConfig) -> PlanFile:
    """Describe a sampling plan as a plan file.

    Raises:
        ConfigError: If its solver chooses its own steps.
    """
    sampler, schedule = build_sampler(plan.sampler, rows=plan.rows), plan.schedule
    num_steps, times, rows = sampler.num_steps, sampler.times, None
    if plan.sampler.is_multistep:
        exact = plan.rows or multistep_rows(plan.sampler)
        times, weights = tuple(exact.time_L.tolist()), exact.weights
        rows = tuple(
            PlanRow(state=float(state), noise=float(noise), weights=tuple(map(float, weight_J)))
            for state, noise, weight_J in zip(weights.state_L, weights.noise_L, weights.weight_LJ, strict=True)
        )
    guidance = None
    if plan.guidance.is_on:
        by_step = tuple(bool(phase == Phase.INSIDE) for phase in phases(plan.guidance, sampler))
        guidance = PlanGuidance(
            scale=plan.guidance.scale, channels=plan.guidance.channels, power=plan.guidance.power, by_step=by_step
        )
    return PlanFile(
        medcli_plan=VERSION,
        family=config.family,
        channels=config.in_channels,
        sampler=plan.sampler,
        times=times,
        rows=rows,
        networks=None if schedule.is_dynamic else tuple(count or FULL for count in schedule.networks(num_steps)),
        schedule=schedule if schedule.is_dynamic else None,
        guidance=guidance,
    )


@dataclass(frozen=True, slots=True)
class PlannedSampling:
    """Sampler, rows, schedule and guidance that a plan file gives to a run."""

    sampler: SamplerConfig
    rows: MultistepRows | None
    schedule: Schedule
    guidance: Guidance


def follow(plan: PlanFile, path: Path, config: ModelConfig, trained_on: dict[str, Any]) -> PlannedSampling:
    """Turn a plan file into the settings of a run.

    Args:
        path: Its file, for messages.
        config: The model that is to follow it.
        trained_on: Path and prediction the checkpoint names.

    Raises:
        ConfigError: If the plan is for another kind of model, or its parts can't be followed.
    """
    if plan.family != config.family or plan.channels != config.in_channels:
        raise ConfigError(
            f"{path} is a plan for a {plan.family} model of {plan.channels} channels, not for {config.family} of "
            f"{config.in_channels}",
            hint="make a plan for this model with --save-plan or medcli tune",
        )
    for name, value in trained_on.items():
        if getattr(plan.sampler, name) != value:
            raise ConfigError(
                f"{path} is a plan for a model of {name} {getattr(plan.sampler, name)}, this one has {value}",
                hint="make a plan for this model with --save-plan or medcli tune",
            )
    try:
        rows = solver_rows(plan)
        return PlannedSampling(plan.sampler, rows, _schedule(plan), _guidance(plan, rows))
    except ConfigError as err:
        raise ConfigError(f"{path} can't be followed: {err.message}", hint=err.hint) from err


def solver_rows(plan: PlanFile) -> MultistepRows | None:
    """Return the rows of a plan's multistep solver; None for other solvers, whose times follow from their settings.

    Raises:
        ConfigError: If the plan's times or rows are not of its solver.
    """
    config = plan.sampler
    if not config.is_multistep:
        if plan.times != build_sampler(config).times:
            raise ConfigError(f"the times of solver {config.solver} follow from its steps", hint="change steps instead")
        return None
    if config.steps != len(plan.times):
        raise ConfigError(f"its sampler has {config.steps} steps, times has {len(plan.times)}")
    times = np.array(plan.times)
    if plan.rows is None:
        return multistep_rows(config, times)
    if config.sampler == "ddim":
        multistep_rows(config, times)  # refuses times between timesteps
    weights = MultistepWeights(
        state_L=np.array([row.state for row in plan.rows]),
        weight_LJ=np.array([row.weights for row in plan.rows]),
        noise_L=np.array([row.noise for row in plan.rows]),
    )
    if not 1 <= weights.weight_LJ.shape[1] <= MOST_SLOPES:
        raise ConfigError(f"its rows have {weights.weight_LJ.shape[1]} weights, expected 1 to {MOST_SLOPES}")
    return MultistepRows(times, weights)


def _schedule(plan: PlanFile) -> Schedule:
    if plan.schedule is not None:
        return plan.schedule
    networks = [0 if network == FULL else int(network) for network in plan.networks or ()]
    starts = [0, *(step for step in range(1, len(networks)) if networks[step] != networks[step - 1])]
    counts = tuple(networks[start] for start in starts)
    if len(counts) == 1:
        return Schedule(kind="static" if counts[0] else "full", counts=counts)
    return Schedule(kind="timed", counts=counts, at=tuple(start / len(networks) for start in starts[1:]))


def _guidance(plan: PlanFile, rows: MultistepRows | None) -> Guidance:
    if plan.guidance is None:
        return Guidance()
    guided = [step for step, is_guided in enumerate(plan.guidance.by_step) if is_guided]
    if guided and guided != list(range(guided[0], guided[-1] + 1)):
        raise ConfigError("its guided steps are not one run of steps")
    starts = [0.0, *step_starts(build_sampler(plan.sampler, rows=rows)).tolist()[1:], 1.0]
    interval = (starts[guided[0]], starts[guided[-1] + 1]) if guided else (0.0, 0.0)
    whole = Guidance(scale=plan.guidance.scale, channels=plan.guidance.channels, power=plan.guidance.power)
    return whole if interval == ALWAYS else replace(whole, interval=interval)
