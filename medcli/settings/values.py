"""Read and check the value of a setting: from a flag's text, or from JSON or TOML. One validator for all sources."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from medcli.errors import ConfigError
from medcli.settings.declare import Setting, settings_of
from medcli.settings.parsers import parse_count, parse_float, parse_int, parse_path

MAX_DIGITS = 18
"""Digits of a whole number; longer ones would overflow 64 bits."""
MAX_SEED = 2**64 - 1
"""Noise is keyed by 64 bits: a larger seed would be the same as a smaller one."""

_READERS: Mapping[type, tuple[Any, str]] = {
    int: (parse_int, "a whole number"),
    float: (parse_float, "a number"),
    Path: (parse_path, "a path"),
    str: (str, "text"),
}
_PLURALS = {int: "whole numbers", float: "numbers", str: "words", Path: "paths"}


def parse_text(made: Setting, text: str, label: str | None = None) -> Any:
    """Parse what was written for a setting on the command line, and check it.

    Args:
        text: The flag's value.
        label: Source of the text for the message; None: the flag.

    Raises:
        ConfigError: Naming the flag, the value and what is expected.
    """
    label = label or made.flag
    if made.parse is not None:
        try:
            return _in_range(made, made.parse(text), label)
        except ValueError as err:
            raise ConfigError(f"{label} {text!r} is not {made.expects}", hint=_like(made)) from err
    kind = made.types[0]
    parts = _element_types(kind)
    if made.choices and parts is None:
        return _chosen(made, text, label)
    if parts is None:
        read, name = _READERS[kind]
        try:
            return _in_range(made, read(text), label)
        except ValueError as err:
            problem = f"{label} is empty" if not text.strip() else f"{label} {text!r} is not {name}"
            raise ConfigError(problem, hint=_like(made)) from err
    return _in_range(made, _parse_list(made, text, parts, label), label)


def _parse_list(made: Setting, text: str, parts: tuple[Any, ...], label: str) -> tuple[Any, ...]:
    pieces = [piece.strip() for piece in text.split(",")]
    types = parts if parts[-1] is not ... else (parts[0],) * len(pieces)
    if len(types) != len(pieces):
        raise ConfigError(f"{label} {text!r} is not {made.metavar}", hint=_like(made))
    values = []
    for piece, kind in zip(pieces, types, strict=True):
        try:
            if not piece:
                raise ValueError(piece)
            values.append(_chosen(made, piece, label) if made.choices else _READERS[kind][0](piece))
        except ValueError as err:
            message = f"{label} {text!r}: {piece!r} is not one of comma-separated {_PLURALS[kind]}"
            raise ConfigError(message, hint=_like(made)) from err
    return tuple(values)


def check_values(settings: object) -> None:
    """Check every setting of a dataclass that was constructed in Python.

    Raises:
        ConfigError: Naming the setting and what is expected.
    """
    for made in settings_of(type(settings)).values():
        value: Any = settings
        for name in made.path:
            value = getattr(value, name)
        if value is not None:
            from_json(made, value)


def check_as(declared: type, **values: object) -> None:
    """Check values by the settings of a dataclass that have these keys; None is not checked.

    Raises:
        ConfigError: Naming the setting and what is expected.
    """
    for key, value in values.items():
        if value is not None:
            from_json(settings_of(declared)[key], value)


def parse_pairs(made: Setting, texts: list[str], label: str | None = None) -> dict[int, Path]:
    """Parse `4=a.safetensors` words, one per flag.

    Raises:
        ConfigError: If a word is not of that form, or a number is given twice.
    """
    pairs: dict[int, Path] = {}
    for text in texts:
        number, _, path = text.partition("=")
        try:
            key, value = parse_count(number), parse_path(path)
        except ValueError as err:
            raise ConfigError(f"{label or made.flag} {text!r} is not {made.metavar}", hint=_like(made)) from err
        if key in pairs:
            raise ConfigError(f"{label or made.flag} names {number} twice", hint="give one path per number")
        pairs[key] = value
    return pairs


def from_json(made: Setting, value: Any, label: str | None = None) -> Any:
    """Check a value from JSON or TOML, and return it as the field's type.

    Text is read as the flag's where the flag takes more than a word or a number (`"4,16"`, `"20%"`).

    Raises:
        ConfigError: Naming the source, the value and what is expected.
    """
    label = label or made.flag
    if made.is_list and not made.positional:
        return _pairs_from_json(made, value, label)
    if isinstance(value, str) and _reads_text(made):
        return parse_text(made, value, label)
    if made.choices and _element_types(made.types[0]) is None:
        raise ConfigError(f"{label} is {value!r}, expected one of {', '.join(made.choices)}", hint=_like(made))
    for kind in made.types:
        try:
            found = _in_range(made, _converted(kind, value), label)
        except TypeError:
            continue
        for word in found if made.choices else ():
            _chosen(made, word, label)
        return found
    raise ConfigError(f"{label} is {value!r}, expected {_expected(made)}", hint=_like(made))


def _reads_text(made: Setting) -> bool:
    """True unless text is a mistake for this type: a number in quotes, a switch."""
    if made.is_list:  # words of their own, not one with commas
        return False
    return made.parse is not None or bool(made.choices) or not made.finite or made.types[0] not in (int, float, bool)


def _converted(kind: Any, value: Any) -> Any:
    """Convert a JSON value to a type.

    Raises:
        TypeError: If it is of another type.
    """
    parts = _element_types(kind)
    if parts is not None:
        values = value if isinstance(value, list | tuple) else [value]
        types = parts if parts[-1] is not ... else (parts[0],) * len(values)
        if len(types) != len(values):
            raise TypeError
        return tuple(_converted(part, one) for part, one in zip(types, values, strict=True))
    if isinstance(kind, UnionType) and type(value) in get_args(kind):
        return value
    if kind is float and type(value) is int:
        return float(value) if abs(value) < 2**1023 else math.inf
    if kind in (int, float, bool, str) and type(value) is kind:
        return value
    if kind is Path and isinstance(value, str | Path) and str(value).strip():
        return parse_path(str(value))
    raise TypeError


def _pairs_from_json(made: Setting, value: Any, label: str) -> dict[int, Path]:
    if isinstance(value, Mapping):
        value = [f"{key}={path}" if isinstance(path, str | Path) else path for key, path in value.items()]
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ConfigError(f"{label} is {value!r}, expected {made.metavar} pairs", hint=_like(made))
    return parse_pairs(made, value, label)


def _chosen(made: Setting, word: str, label: str) -> str:
    if word in made.choices:
        return word
    near = difflib.get_close_matches(word.lower(), made.choices, n=1) or made.choices
    message = f"{label} {word!r}: expected one of {', '.join(made.choices)}"
    raise ConfigError(message, hint=f"write it like {made.flag} {near[0]}")


def _in_range(made: Setting, value: Any, label: str) -> Any:
    """Check the range of a number, or of each number of a list; the value if all is well."""
    for number in value if isinstance(value, tuple) else (value,):
        if type(number) not in (int, float):
            continue
        if made.finite and not math.isfinite(number):
            raise ConfigError(f"{label} must be a finite number, got {number}", hint=_like(made))
        too_low = made.minimum is not None and number < made.minimum or made.above is not None and number <= made.above
        too_high = made.maximum is not None and number > made.maximum or made.below is not None and number >= made.below
        if too_low or too_high or number != number:
            raise ConfigError(f"{label} must be {_range(made, too_low=too_low)}, got {number}", hint=_like(made))
        if type(number) is int and made.maximum is None and len(str(abs(number))) > MAX_DIGITS:
            raise ConfigError(f"{label} {number} is too large", hint=_like(made))
    return value


def _range(made: Setting, *, too_low: bool) -> str:
    """Describe the bound that does not hold, or for fractions the interval."""
    low, high = made.minimum if made.above is None else made.above, made.maximum if made.below is None else made.below
    if low is not None and high is not None and not {int, tuple[int, ...]} & set(made.types):
        opening, closing = "(" if made.above is not None else "[", ")" if made.below is not None else "]"
        return f"in {opening}{low:g}, {high:g}{closing}"
    if too_low or high is None:
        return f"above {low:g}" if made.above is not None else f"at least {low:g}"
    if high == MAX_SEED:
        return "at most 2^64 - 1"
    return f"below {high}" if made.below is not None else f"at most {high}"


def _expected(made: Setting) -> str:
    if made.expects:
        return made.expects
    kind = made.types[0]
    parts = _element_types(kind)
    if parts is not None:
        return f"a list of {_PLURALS[parts[0]]}"
    return "true or false" if kind is bool else _READERS[kind][1]


def _like(made: Setting) -> str | None:
    """Show a valid value."""
    example = made.example
    if example is None and made.choices:
        example = made.choices[0]
    if example is None and made.default is not None and not isinstance(made.default, bool):
        example = format_value(made.default)
    if example is None and int in made.types:
        example = str(int(made.minimum or 1))
    if example is None or made.positional:
        return None if made.positional else f"leave {made.flag} out"
    return f"write it like {made.flag} {example}"


def format_value(value: Any) -> str:
    """Format a value as a flag takes it."""
    if isinstance(value, tuple | list):
        return ",".join(map(format_value, value))
    return repr(value) if isinstance(value, float) else str(value)


def _element_types(kind: Any) -> tuple[Any, ...] | None:
    return get_args(kind) if get_origin(kind) is tuple else None
