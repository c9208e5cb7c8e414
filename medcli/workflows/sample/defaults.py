"""Sampling settings in a checkpoint's header, checked as flags are: a header comes from elsewhere, like any data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from medcli.engine.plan import FAMILY_SAMPLERS
from medcli.errors import CheckpointError, ConfigError
from medcli.network import Network
from medcli.sampler_config import SamplerConfig
from medcli.schedule.spec import Schedule
from medcli.settings.declare import settings_of
from medcli.settings.sampling import SampleRequest
from medcli.settings.values import from_json

IN_HEADER = (
    *("sampler", "solver", "steps", "path", "prediction", "diffusion_form", "diffusion_norm", "last_step"),
    *("last_step_size", "schedule", "rho", "warmup_steps", "distance", "cfg_scale", "cfg_channels"),
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
    values = dict(info.sampling)
    declared = settings_of(SampleRequest)
    try:
        for name in IN_HEADER:
            if name in values:
                checked = from_json(declared[name], values[name], name)
                if (list(checked) if isinstance(checked, tuple) else checked) != values[name]:
                    raise ConfigError(f"{name} is {values[name]!r}")
        if values.get("sampler") not in (None, *FAMILY_SAMPLERS[info.config.family]):
            raise ConfigError(f"sampler is {values['sampler']!r}")
        SamplerConfig(**{part.name: values[part.name] for part in fields(SamplerConfig) if part.name in values})
        _check_rule(values, info.config.mediators)
    except ConfigError as err:
        raise CheckpointError(
            f"{info.path.name} has invalid sampling settings: {err.message}", hint="convert the original again"
        ) from err
    # Values that are not known are refused when they are used, unless a flag replaces them.
    return {**network.sampling, **info.unknown_sampling}


def _check_rule(values: Mapping[str, Any], ladder: tuple[int, ...]) -> None:
    """Have the dynamic schedule check its own; without thresholds any ladder will do for the rest."""
    counts, rho = (ladder, tuple(values["rho"])) if "rho" in values else ((1, 4), (0.5,))
    given = {name: values[name] for name in ("warmup_steps", "distance") if name in values}
    Schedule(kind="dynamic", counts=counts, rho=rho, **given)
