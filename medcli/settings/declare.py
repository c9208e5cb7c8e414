"""Declare a setting once, as a dataclass field: flag, help, choices, range and what it depends on.

From the declaration come the command line, its help, the checks of flags, configuration files and checkpoint headers,
the refusal of flags without effect, and the command line that repeats a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import cache, partial
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

PANELS = (
    *("Input", "Model", "Schedule", "Sampling", "Attention modulation (AMM)", "Analysis", "Budget", "Search", "Timing"),
    *("Training", "Ladder", "Loss", "Scoring", "Machine", "Checkpoints", "Logging", "Output"),
)
"""Headings of the help texts, in the order they are shown."""
INPUT, MODEL, SCHEDULE, SAMPLING, MODULATION, ANALYSIS, BUDGET, SEARCH, TIMING = PANELS[:9]
TRAINING, LADDER, LOSS, SCORING, MACHINE, CHECKPOINTS, LOGGING, OUTPUT = PANELS[9:]

KEY = "medcli"
"""Key of a field's metadata under which its declaration is found."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Condition under which a setting has an effect."""

    key: str
    """The deciding setting."""
    values: tuple[object, ...] = ()
    """Values under which the setting has an effect; empty: any but None and False."""
    unless: tuple[object, ...] = ()
    """Values under which it has none."""
    words: str = ""
    """The condition as a user writes it, for the hint: `--sampler sde or ode`."""

    def is_met(self, value: object) -> bool:
        """Check the deciding setting's value."""
        if self.values:
            return value in self.values
        return value not in self.unless if self.unless else value is not None and value is not False


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Declaration of one setting; made by `setting`, completed with the field's name, type and default."""

    help: str
    key: str = ""
    """Name in a configuration file, and with `-` for `_` the flag."""
    letter: str | None = None
    """One-letter flag such as `-o`."""
    panel: str = ""
    """Heading of the help text it is listed under."""
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    """Exclusive lower bound."""
    below: float | None = None
    """Exclusive upper bound."""
    finite: bool = True
    needs: tuple[Needs, ...] = ()
    decides: bool = True
    """True if the value decides a result beyond rounding; such settings are part of a run's identity."""
    short: bool = False
    """Listed by `-h`; all are by `--help-all`."""
    positional: bool = False
    required: bool = False
    negatable: bool = False
    """A switch with a `--no-` form."""
    default_text: str | None = None
    """Origin of the value when the setting is not given, if the default does not tell."""
    example: str | None = None
    """A valid value, for hints."""
    parse: Callable[[str], Any] | None = None
    """Reads the flag's text where its type does not tell how; raises ValueError."""
    format: Callable[[Any], str] | None = None
    """Writes a value as `parse` reads it, where joining with commas does not."""
    spelled: str = ""
    """Name of the flag where it is not the key's."""
    expects: str = ""
    """Description of the text `parse` accepts, for the error message."""
    type: Any = None
    default: Any = None
    path: tuple[str, ...] = ()
    """Field names from the request to the field."""

    @property
    def flag(self) -> str:
        """The long flag, or the placeholder of a positional argument."""
        return str(self.metavar) if self.positional else f"--{(self.spelled or self.key).replace('_', '-')}"

    @property
    def spellings(self) -> tuple[str, ...]:
        """The flags that give it."""
        off = (f"--no-{self.flag.removeprefix('--')}",) if self.negatable else ()
        return (*((self.letter,) if self.letter else ()), self.flag, *off)

    @property
    def shown_metavar(self) -> str | None:
        """Placeholder of its value in help texts; None for a switch."""
        return "|".join(self.choices) if self.choices else self.metavar

    @property
    def types(self) -> tuple[Any, ...]:
        """Types of its values, without None."""
        return tuple(kind for kind in _members(self.type) if kind is not type(None))

    @property
    def is_switch(self) -> bool:
        """True for a flag without a value."""
        return self.types == (bool,)

    @property
    def is_list(self) -> bool:
        """True if the flag or argument may be given several times."""
        return any(get_origin(kind) in (dict, Mapping) for kind in self.types) or (
            self.positional and any(get_origin(kind) is tuple for kind in self.types)
        )

    @property
    def shown_default(self) -> str | None:
        """The default for a help text; None for switches and where there is nothing to show."""
        if self.default_text is not None:
            return self.default_text or None
        if self.negatable:
            return "on" if self.default else "off"
        if self.default is None or isinstance(self.default, bool) or self.default in ((), {}):
            return None
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)


@dataclass(frozen=True, slots=True)
class _Group:
    """Metadata of a field that holds a dataclass of settings."""

    only: frozenset[str] | None
    omit: frozenset[str]
    changes: Mapping[str, Mapping[str, Any]]


def setting(default: Any = MISSING, *, key: str = "", needs: Needs | tuple[Needs, ...] = (), **declaration: Any) -> Any:
    """Make the dataclass field of a setting.

    Args:
        default: Its default; without one it is required.
        key: Its name on the command line, where the field's differs.
        needs: Conditions under which it has an effect.
        declaration: Fields of `Setting`.
    """
    made = Setting(
        key=key, needs=needs if isinstance(needs, tuple) else (needs,), required=default is MISSING, **declaration
    )
    return field(default=default, metadata={KEY: made})


def count_setting(default: Any, maximum: int, *, minimum: int = 1, metavar: str = "N", **declaration: Any) -> Any:
    """Make the field of a setting that is a whole number of things, or a list of such; see `setting`."""
    return setting(default, metavar=metavar, minimum=minimum, maximum=maximum, **declaration)


def optional(cls: Any, key: str, default_text: str, *, short: bool = False) -> Any:
    """Make the field of a setting that another dataclass declares; its default is None.

    Args:
        cls: The dataclass that declares it.
        default_text: Origin of the value when the setting is not given; `{}` stands for the declared default.
        short: True: `-h` lists it.
    """
    made = settings_of(cls)[key]
    origin = default_text.format(made.shown_default)
    return field(default=None, metadata={KEY: replace(made, default_text=origin, short=short)})


def group(cls: Any, *, only: tuple[str, ...] | None = None, omit: tuple[str, ...] = (), **changes: Any) -> Any:
    """Make a field that holds a dataclass of settings, some of them left out or declared anew.

    Args:
        cls: The dataclass.
        only: Keys of the settings a command has flags for; None: all.
        omit: Keys of settings it has no flags for; they keep their defaults.
        changes: New values of `Setting` fields by key, such as `num_images={"default": 32}`.
    """
    declared = settings_of(cls)
    known = {*(only or ()), *omit, *changes}
    if unknown := known - set(declared):
        raise TypeError(f"{cls.__name__} has no setting {', '.join(sorted(unknown))}")
    if nested := [key for key, made in changes.items() if "default" in made and len(declared[key].path) > 1]:
        raise TypeError(f"{cls.__name__}: the default of {nested[0]} belongs to a nested dataclass")
    defaults = {declared[key].path[0]: made["default"] for key, made in changes.items() if "default" in made}
    shape = _Group(None if only is None else frozenset(only), frozenset(omit), changes)
    return field(default_factory=partial(cls, **defaults), metadata={KEY: shape})


def settings_of(cls: Any) -> dict[str, Setting]:
    """Return the settings of a dataclass by key, in the order they are declared; fields of other kinds are skipped.

    Raises:
        TypeError: If two settings share a key, or one depends on a setting that does not exist.
    """
    return _settings_of(cls)


@cache
def _settings_of(cls: Any) -> dict[str, Setting]:
    hints = get_type_hints(cls)
    by_name = {part.name: part for part in fields(cls)}
    found: dict[str, Setting] = {}
    for part in (by_name[name] for name in dict.fromkeys(_names(cls))):
        declared = part.metadata.get(KEY)
        made: dict[str, Setting] = {}
        if isinstance(declared, Setting):
            default = None if part.default is MISSING else part.default
            key = declared.key or part.name
            made[key] = replace(declared, key=key, type=hints[part.name], default=default, path=(part.name,))
        elif isinstance(declared, _Group):
            made = _settings_of_group(hints[part.name], declared, part.name)
        for key, one in made.items():
            if key in found:
                raise TypeError(f"{cls.__name__} declares the setting {key} twice")
            found[key] = _checked(one, cls.__name__)
    for key, one in found.items():
        if missing := [need.key for need in one.needs if need.key not in found]:
            raise TypeError(f"{cls.__name__}.{key} depends on {missing[0]}, which does not exist")
    return found


def _names(cls: Any) -> list[str]:
    """Field names as they read: those of the bases from left to right, then the own ones."""
    inherited = [name for base in cls.__bases__ if is_dataclass(base) for name in _names(base)]
    return inherited + [name for name in cls.__dict__.get("__annotations__", {}) if name in cls.__dataclass_fields__]


def _settings_of_group(cls: Any, shape: _Group, name: str) -> dict[str, Setting]:
    if not is_dataclass(cls):
        raise TypeError(f"{name} is no dataclass of settings")
    kept = {
        key: one
        for key, one in settings_of(cls).items()
        if (shape.only is None or key in shape.only) and key not in shape.omit
    }
    return {
        key: replace(
            one,
            path=(name, *one.path),
            **{"needs": tuple(need for need in one.needs if need.key in kept), **shape.changes.get(key, {})},
        )
        for key, one in kept.items()
    }


def _checked(made: Setting, owner: str) -> Setting:
    """Complete a declaration and refuse one that could never work."""
    if not made.help.endswith("."):
        raise TypeError(f"{owner}.{made.key}: the help must be a sentence")
    if made.panel not in PANELS and not made.positional:
        raise TypeError(f"{owner}.{made.key}: unknown panel {made.panel!r}")
    literals = [get_args(kind) for kind in made.types if get_origin(kind) is Literal]
    if literals and not made.choices and made.parse is None:
        made = replace(made, choices=tuple(word for words in literals for word in words))
    if made.choices and isinstance(made.default, str) and made.default not in made.choices:
        raise TypeError(f"{owner}.{made.key}: the default {made.default!r} is none of {', '.join(made.choices)}")
    if made.is_switch and made.default not in (None, False) and not made.negatable:
        raise TypeError(f"{owner}.{made.key}: a switch that is on by default needs negatable=True")
    return made


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
