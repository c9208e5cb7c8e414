"""Flags that would do nothing, because another choice leaves them nothing to decide. One table for every command.

A flag that is accepted in silence and changes nothing makes its user believe in an effect that is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from medcli.engine.plan import ADAPTIVE_SOLVERS, SamplingPlan
from medcli.errors import ConfigError
from medcli.runtime.reporting import Reporter


@dataclass(frozen=True, slots=True)
class Use:
    """When some flags mean something. Flags go by their field names in a request, where None was not given."""

    flags: tuple[str, ...]
    decider: str
    """The flag whose value decides."""
    choice: Callable[[SamplingPlan], str]
    """That value."""
    is_met: Callable[[SamplingPlan], bool]
    """Whether they mean something under it."""
    needs: str
    """Under which values they do, for the hint."""


USES = (
    Use(
        ("rho", "warmup_steps", "distance"),
        "schedule",
        lambda plan: plan.schedule.kind,
        lambda plan: plan.schedule.is_dynamic,
        "--schedule dynamic",
    ),
    Use(
        ("solver", "path", "prediction"),
        "sampler",
        lambda plan: plan.sampler.sampler,
        lambda plan: plan.sampler.sampler in ("sde", "ode"),
        "--sampler sde or ode",
    ),
    Use(
        ("diffusion_form", "diffusion_norm", "last_step", "last_step_size"),
        "sampler",
        lambda plan: plan.sampler.sampler,
        lambda plan: plan.sampler.sampler == "sde",
        "--sampler sde",
    ),
    Use(
        ("last_step_size",),
        "last_step",
        lambda plan: plan.sampler.last_step,
        lambda plan: plan.sampler.last_step != "none",
        "--last-step mean, tweedie or euler",
    ),
    Use(
        ("cfg_channels", "cfg_interval", "cfg_power"),
        "cfg_scale",
        lambda plan: f"{plan.guidance.scale:g}",
        lambda plan: plan.guidance.scale != 1.0,
        "a --cfg-scale other than 1",
    ),
)


def refuse_idle_flags(request: object, plan: SamplingPlan) -> None:
    """Refuse a flag that was given and would change nothing.

    Args:
        request: What was asked for; of the fields named in `USES` it may lack some.
        plan: What it comes to, once the checkpoint's and the family's defaults are filled in.

    Raises:
        ConfigError: Naming the flag and the choice that leaves it nothing to do.
    """
    for use in USES:
        for name in use.flags:
            if _is_given(request, name) and not use.is_met(plan):
                default = "" if _is_given(request, use.decider) else "the default "
                raise ConfigError(
                    f"{_flag(name)} does nothing with {default}{_flag(use.decider)} {use.choice(plan)}",
                    hint=f"leave {_flag(name)} out; it is for {use.needs}",
                )


def remark_on_idle_steps(request: object, plan: SamplingPlan, reporter: Reporter) -> None:
    """Tell, without refusing, that an adaptive solver takes no `--steps`: scripts give it to every solver alike."""
    if _is_given(request, "steps") and plan.sampler.solver in ADAPTIVE_SOLVERS:
        reporter.note(f"--steps does nothing with --solver {plan.sampler.solver}, which chooses its own steps")


def _is_given(request: object, name: str) -> bool:
    return getattr(request, name, None) is not None


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
