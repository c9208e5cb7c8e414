"""Sampling settings in a checkpoint's header, checked as flags are: a header comes from elsewhere, like any data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args

from medcli.engine.plan import FAMILY_SAMPLERS
from medcli.errors import CheckpointError, ConfigError
from medcli.network import Network
from medcli.schedule.spec import Schedule, choose_schedule
from medcli.settings.declare import settings_of
from medcli.settings.sampler import PathName, PredictionName, SamplerConfig
from medcli.settings.sampling import SampleRequest
from medcli.settings.values import from_json

TRAINED = {"path": get_args(PathName), "prediction": get_args(PredictionName)}
"""Values that medcli knows of the settings a network is trained with."""
IN_HEADER = (
    *("sampler", "solver", "steps", "path", "prediction", "diffusion_form", "diffusion_norm", "last_step"),
    *("last_step_size", "time_shift", "schedule", "mediators", "at", "rho", "warmup_steps", "distance"),
    *("cfg_scale", "cfg_channels"),
)
"""Settings of `sample` that a header may hold."""


def sampling_defaults(network: Network) -> dict[str, Any]:
    """Return the sampling defaults of a network by setting, without those its changes have made void.

    Names that are no settings are kept and decide nothing.

    Raises:
        CheckpointError: If a value is of the wrong type or out of range.
    """
    info = network.info
    if info is None:
        return {}
    samplers = FAMILY_SAMPLERS[info.config.family]
    others = info.sampling.get("for_sampler", {})
    try:
        if not isinstance(others, Mapping) or not all(isinstance(each, Mapping) for each in others.values()):
            raise ConfigError("for_sampler is not a table of settings by sampler")
        _check_values(info.sampling, samplers)
        for name, values in others.items():
            _check_values({**values, "sampler": name}, samplers)
        _check_rule(info.sampling, info.config.mediators)
    except ConfigError as err:
        raise CheckpointError(
            f"{info.path.name} has invalid sampling settings: {err.message}", hint="convert the original again"
        ) from err
    return dict(network.sampling)


def own_tuple(defaults: Mapping[str, Any], name: str) -> tuple[Any, ...] | None:
    """Return a list of the defaults as a tuple; None: there is none."""
    return tuple(defaults[name]) if name in defaults else None


def _check_values(values: Mapping[str, Any], samplers: tuple[str, ...]) -> None:
    """Check the settings of one sampler.

    Raises:
        ConfigError: Naming the setting and its value.
    """
    declared = settings_of(SampleRequest)
    for name in IN_HEADER:
        if name in values:
            checked = from_json(declared[name], values[name], name)
            if (list(checked) if isinstance(checked, tuple) else checked) != values[name]:
                raise ConfigError(f"{name} is {values[name]!r}")
    if values.get("sampler") not in (None, *samplers):
        raise ConfigError(f"sampler is {values['sampler']!r}")
    SamplerConfig(**{part.name: values[part.name] for part in fields(SamplerConfig) if part.name in values})


def require_known_training(network: Network, settings: object) -> None:
    """Refuse a network that was trained with a path or prediction medcli does not know, unless a flag replaces it.

    Args:
        settings: Its attributes `path` and `prediction` are the flags; None: not given.

    Raises:
        CheckpointError: Naming the value.
    """
    for name, value in (network.info.unknown_sampling if network.info else {}).items():
        if getattr(settings, name, None) is None:
            raise CheckpointError(
                f"{network.name} was trained with {name} {str(value)[:60]!r}, which medcli does not know",
                hint=f"if it is one that medcli knows by another name, pass --{name} {'|'.join(TRAINED[name])}",
            )


def _check_rule(values: Mapping[str, Any], ladder: tuple[int, ...]) -> None:
    """Have the schedules check their own; without thresholds any ladder will do for the rest of the dynamic one."""
    if "mediators" in values or "at" in values:
        kind, rho = values.get("schedule"), values.get("rho")
        choose_schedule(
            kind=kind,
            counts=own_tuple(values, "mediators"),
            rho=tuple(rho) if rho and kind == "dynamic" else None,
            held=ladder,
            at=own_tuple(values, "at"),
        )
    counts, rho = (ladder, tuple(values["rho"])) if "rho" in values else ((1, 4), (0.5,))
    given = {name: values[name] for name in ("warmup_steps", "distance") if name in values}
    Schedule(kind="dynamic", counts=counts, rho=rho, **given)
