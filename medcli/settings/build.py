"""Build a command's request from the settings that were given, and refuse those without effect."""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from medcli.errors import ConfigError
from medcli.settings.declare import Needs, Setting, settings_of
from medcli.settings.values import format_value

T = TypeVar("T")


def build(cls: type[T], given: Mapping[str, Any]) -> T:
    """Build a dataclass of settings.

    Args:
        given: Checked values by key; the rest keeps its default.

    Raises:
        ConfigError: If a required setting is missing, or one that is given has no effect.
    """
    declared = settings_of(cls)
    for key, made in declared.items():
        if made.required and key not in given:
            what = "argument" if made.positional else "option"
            raise ConfigError(f"missing {what} '{made.flag}'")
    refuse_idle(declared, given, {key: made.default for key, made in declared.items()} | dict(given))
    tree: dict[str, Any] = {}
    for key, value in given.items():
        place = tree
        *groups, name = declared[key].path
        for part in groups:
            place = place.setdefault(part, {})
        place[name] = value
    return _construct(cls, tree)


def _construct(cls: Any, tree: Mapping[str, Any]) -> Any:
    """Construct nested dataclasses from values by field name; a group starts from its declared defaults."""
    values = dict(tree)
    for part in fields(cls):
        value = values.get(part.name)
        if isinstance(value, dict) and part.name not in _plain_names(cls):
            start: Any = part.default_factory()  # type: ignore[operator]  # a group has one
            kept = {one.name: getattr(start, one.name) for one in fields(start) if one.init}
            values[part.name] = _construct(type(start), {**kept, **value})
    return cls(**values)


def _plain_names(cls: Any) -> set[str]:
    """Names of the fields that hold one setting."""
    return {made.path[0] for made in settings_of(cls).values() if len(made.path) == 1}


def value_of(request: object, made: Setting) -> Any:
    """Return a setting's value in a request."""
    value: Any = request
    for name in made.path:
        value = getattr(value, name)
    return value


def values_of(request: object) -> dict[str, Any]:
    """Return every setting of a request by key."""
    return {key: value_of(request, made) for key, made in settings_of(type(request)).items()}


def effective_values(request: object) -> dict[str, Any]:
    """Return the settings of a request by key, without those that others leave without effect."""
    declared, values = settings_of(type(request)), values_of(request)
    return {key: value for key, value in values.items() if not _unmet(declared[key], values)}


def settings_to_json(values: Mapping[str, Any], cls: Any) -> dict[str, Any]:
    """Convert settings to JSON values that `--config` reads; what is None is left out."""
    declared = settings_of(cls)
    return {key: _to_json(declared[key], value) for key, value in values.items() if value is not None}


def _to_json(made: Setting, value: Any) -> Any:
    if made.format is not None:
        return made.format(value)
    if isinstance(value, Mapping):
        return {str(key): str(one) for key, one in value.items()}
    if isinstance(value, tuple):
        return [str(one) if isinstance(one, Path) else one for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, Path) else value


def given_in(request: object) -> dict[str, Any]:
    """Return the settings of a request that differ from their defaults, by key."""
    declared = settings_of(type(request))
    values = values_of(request)
    return {key: value for key, value in values.items() if value != declared[key].default or declared[key].required}


def refuse_idle(declared: Mapping[str, Setting], given: Collection[str], values: Mapping[str, Any]) -> None:
    """Refuse a setting that was given and has no effect beside the values of others.

    Args:
        declared: The settings of a command.
        given: Keys of those that were given.
        values: Values of the deciding settings. A decider that is not here, or that the checkpoint will decide (None),
            is left to the workflow.

    Raises:
        ConfigError: Naming the setting and what leaves it without effect.
    """
    for key in given:
        for need in _unmet(declared[key], values):
            decider = declared[need.key]
            raise _idle(declared[key], decider, need, values[need.key], is_given=need.key in given)


def _unmet(made: Setting, values: Mapping[str, Any]) -> list[Needs]:
    """List what leaves a setting without effect."""

    def is_open(need: Needs) -> bool:
        return need.key not in values or (values[need.key] is None and bool(need.values or need.unless))

    return [need for need in made.needs if not is_open(need) and not need.is_met(values[need.key])]


def _idle(made: Setting, decider: Setting, need: Needs, value: Any, *, is_given: bool) -> ConfigError:
    if not (need.values or need.unless):
        return ConfigError(
            f"{made.flag} does nothing without {decider.flag}",
            hint=f"add {need.words}" if need.words else f"leave {made.flag} out",
        )
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return ConfigError(
        f"{made.flag} does nothing with {'' if is_given else 'the default '}{decider.flag} {shown}",
        hint=f"leave {made.flag} out; it is for {need.words or f'{decider.flag} {need.values[0]}'}",
    )


def refuse_idle_choices(request: object, values: Mapping[str, Any]) -> None:
    """Refuse settings without effect once the checkpoint and the family have filled in what was left open.

    Args:
        request: The request; settings that are None were not given.
        values: What the deciding settings came to, by key.

    Raises:
        ConfigError: Naming the setting and the choice that leaves it without effect.
    """
    declared = settings_of(type(request))
    given = [key for key, made in declared.items() if value_of(request, made) is not None]
    undecided = {key: made for key, made in declared.items() if made.needs or made.key in values}
    refuse_idle(undecided, [key for key in given if key in undecided], values)


def command_line(name: str, cls: type[Any], values: Mapping[str, Any]) -> str:
    """Write the command line that gives a command these settings, ready for a shell.

    Args:
        values: Values by key, in the order they are to be written.
    """
    declared = settings_of(cls)
    words = ["medcli", name]
    for key, value in values.items():
        words += words_of(declared[key], value)
    return shlex.join(words)


def words_of(made: Setting, value: Any) -> list[str]:
    """Return the words that give a setting its value."""
    if made.is_switch:
        return [made.flag if value else f"--no-{made.flag.removeprefix('--')}"]
    if isinstance(value, Mapping):
        return [word for key, one in value.items() for word in (made.flag, f"{key}={one}")]
    if made.positional:
        return [format_value(one) for one in (value if made.is_list else (value,))]
    return [made.letter or made.flag, made.format(value) if made.format else format_value(value)]
