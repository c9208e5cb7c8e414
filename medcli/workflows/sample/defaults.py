"""The sampler and schedule a checkpoint names for itself, checked: a header comes from elsewhere, like any data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args

from medcli.checkpoint.reader import CheckpointInfo
from medcli.engine.plan import FAMILY_SAMPLERS
from medcli.errors import CheckpointError, ConfigError
from medcli.sampler_config import SamplerConfig
from medcli.schedule.spec import Schedule, ScheduleKind

OF_SAMPLER = {field.name: str(field.type) for field in fields(SamplerConfig)}
TYPES = {
    **OF_SAMPLER,
    "schedule": "str",
    "rho": "list",
    "warmup_steps": "int",
    "distance": "str",
    "cfg_scale": "float",
    "cfg_channels": "str",
}
WORDS = {"schedule": get_args(ScheduleKind), "cfg_channels": ("3", "all")}
"""Words that no class below checks."""


def sampling_defaults(info: CheckpointInfo) -> dict[str, Any]:
    """What stands under `sampling` in a checkpoint's header, by option name; empty for other layouts.

    Raises:
        CheckpointError: If a value is of the wrong type or out of range.
    """
    values = dict(info.sampling)
    words = {**WORDS, "sampler": FAMILY_SAMPLERS[info.config.family]}
    try:
        for name, value in values.items():
            if not _has_type(value, TYPES.get(name, "")) or value not in words.get(name, (value,)):
                raise ConfigError(f"{name} is {value!r}")
        if values.get("cfg_scale", 0) < 0:
            raise ConfigError(f"cfg_scale is {values['cfg_scale']}")
        SamplerConfig(**{name: values[name] for name in OF_SAMPLER if name in values})
        _check_rule(values, info.config.mediators)
    except ConfigError as err:
        raise CheckpointError(
            f"{info.path.name} names sampling settings that can't be: {err.message}", hint="convert the original again"
        ) from err
    return values


def _check_rule(values: Mapping[str, Any], ladder: tuple[int, ...]) -> None:
    """Have the dynamic schedule check its own; without thresholds any ladder will do for the rest."""
    counts, rho = (ladder, tuple(values["rho"])) if "rho" in values else ((1, 4), (0.5,))
    given = {name: values[name] for name in ("warmup_steps", "distance") if name in values}
    Schedule(kind="dynamic", counts=counts, rho=rho, **given)


def _has_type(value: Any, kind: str) -> bool:
    """Whether a JSON value is what a field of this type holds; the types of words are told apart elsewhere."""
    if kind == "int":
        return type(value) is int
    if kind == "float":
        return type(value) in (int, float) and math.isfinite(value)
    if kind == "list":
        return isinstance(value, list) and all(_has_type(part, "float") for part in value)
    # A name we don't know decides nothing.
    return not kind or isinstance(value, str)
