"""JSON from outside: parsed strictly, and validated against the dataclass it becomes; dataclasses as JSON.

Every fault is an `InvalidJson`, a ValueError that names it, so that a reader adds the file and a hint: text that is not
UTF-8 or JSON, NaN and Infinity, numbers beyond float64 or 40 digits, keys given twice, nesting that is too deep, size
beyond a bound, and values of another type or out of a field's range.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import types
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from medcli.errors import MedcliError

MAX_BYTES = 64 * 2**20
"""Default bound on a file; real ones hold a few KB, a manifest of a long history a few MB."""
MAX_DEPTH = 64
"""Lists and objects in each other; real files have fewer than ten."""
INT_LIMIT, LONGEST_INT, MOST_DIGITS = 2**63, 40, 1000
"""Bound on the whole numbers of records that have no other, digits of any, and digits where the caller checks."""
SHOWN = 40
"""Characters of a wrong value shown in an error."""

Record = TypeVar("Record")


class InvalidJson(ValueError):
    """Text that is not JSON, or JSON that is not what was expected."""


def read_json(path: Path, max_bytes: int = MAX_BYTES, *, allow_nan: bool = False) -> Any:
    """Read a file of one JSON value.

    Raises:
        InvalidJson: If it is too large or not valid.
        OSError: If it can't be read.
    """
    if path.exists() and not path.is_file():
        raise InvalidJson("no regular file")
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    return parse_json(content, max_bytes, allow_nan=allow_nan)


def parse_json(text: str | bytes, max_bytes: int = MAX_BYTES, *, allow_nan: bool = False) -> Any:
    """Parse one JSON value.

    Args:
        text: The JSON.
        max_bytes: Bound on its size.
        allow_nan: Take NaN, Infinity and numbers of any size, which the caller checks.

    Raises:
        InvalidJson: If it is too large or not valid.
    """
    if len(text) > max_bytes:
        raise InvalidJson(f"more than {max_bytes:,} bytes")
    try:
        value = json.loads(
            text.decode("utf-8-sig") if isinstance(text, bytes) else text,
            parse_constant=float if allow_nan else _refuse_constant,
            parse_float=float if allow_nan else _finite,
            parse_int=_any_int if allow_nan else _bounded,
            object_pairs_hook=_unique,
        )
        _check_depth(value)
    except RecursionError as err:
        raise InvalidJson("nested too deeply") from err
    except UnicodeDecodeError as err:
        raise InvalidJson("not UTF-8 text") from err
    except json.JSONDecodeError as err:
        raise InvalidJson(f"no valid JSON: {err.msg} in line {err.lineno}") from err
    return value


def read_record(kind: type[Record], path: Path, max_bytes: int = MAX_BYTES, *, ignore_unknown: bool = False) -> Record:
    """Read a file of one JSON object into a dataclass.

    Raises:
        InvalidJson: If it is not valid, see `as_record`.
        OSError: If it can't be read.
    """
    return as_record(kind, read_json(path, max_bytes), ignore_unknown=ignore_unknown)


def as_record(kind: type[Record], values: Any, *, ignore_unknown: bool = False, place: str = "") -> Record:
    """Validate a JSON object against a dataclass and build it.

    Fields may be bool, int, float, str, None, Any, literals, enums, unions of these, lists, tuples, mappings with text
    as keys, and dataclasses. A field's metadata may bound its numbers, each number of a tuple included:
    `field(metadata={"min": 1, "max": 100})`.

    Args:
        kind: The dataclass. What its constructor refuses is invalid, too.
        values: Parsed JSON.
        ignore_unknown: Ignore keys that are no fields; else they are invalid.
        place: Where the object is, for messages: `run.`.

    Raises:
        InvalidJson: If a field is missing, unknown, of another type or out of range; it is named.
    """
    if not isinstance(values, dict):
        raise InvalidJson(f"{place.rstrip('.') or 'it'} is {_shown(values)}, expected an object")
    hints, fields = _hints(kind), {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if (unknown := [name for name in values if name not in fields]) and not ignore_unknown:
        raise InvalidJson(f"unknown key {place}{unknown[0][:SHOWN]!r}")
    built: dict[str, Any] = {}
    for name, field in fields.items():
        if name in values:
            built[name] = _value(hints[name], values[name], f"{place}{name}", field.metadata, ignore_unknown)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InvalidJson(f"{place}{name} is missing")
    try:
        return kind(**built)
    except MedcliError as err:
        raise InvalidJson(err.message) from err


def json_fields(record: Any, *names: str) -> dict[str, Any]:
    """Return attributes of a dataclass by name as JSON values; without names, all its fields.

    A record among them is what its `to_json` returns, or without that its fields.
    """
    found = names or [field.name for field in dataclasses.fields(record)]
    return {name: _as_json(getattr(record, name)) for name in found}


def _as_json(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json()
    if dataclasses.is_dataclass(value):
        return json_fields(value)
    if isinstance(value, Mapping):
        return {str(key): _as_json(one) for key, one in value.items()}
    return [_as_json(one) for one in value] if isinstance(value, tuple | list) else value


def _value(hint: Any, value: Any, place: str, bounds: Mapping[str, Any], ignore_unknown: bool) -> Any:
    """Validate one value against a type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any or (hint is None or hint is type(None)) and value is None:
        return value
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value, place, bounds, ignore_unknown)
    if origin is Literal:
        return _checked(value, any(value == each and type(value) is type(each) for each in arguments), place, hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return as_record(hint, value, ignore_unknown=ignore_unknown, place=f"{place}.")
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        _checked(value, value in [each.value for each in hint], place, " or ".join(str(each.value) for each in hint))
        return hint(value)
    if origin in (list, tuple, Sequence):
        return _items(origin, arguments, value, place, bounds, ignore_unknown)
    if hint in (list, tuple):
        return hint(_checked(value, isinstance(value, list), place, "a list"))
    if origin in (dict, Mapping) or hint in (dict, Mapping):
        _checked(value, isinstance(value, dict), place, "an object")
        inner = arguments[1] if arguments else Any
        return {key: _value(inner, each, f"{place}.{key}"[:100], bounds, ignore_unknown) for key, each in value.items()}
    return _scalar(hint, value, place, bounds)


def _scalar(hint: Any, value: Any, place: str, bounds: Mapping[str, Any]) -> Any:
    if hint is float and type(value) is int:
        value = float(value)
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    _checked(value, type(value) is hint, place, names.get(hint, str(hint)))
    if hint in (int, float):
        limit = INT_LIMIT if hint is int else math.inf
        low, high = bounds.get("min", -limit), bounds.get("max", limit)
        is_inside = low <= value <= high and not (bounds.get("above") is not None and value <= bounds["above"])
        _checked(value, is_inside, place, _range_text(bounds))
    return value


def _items(
    origin: Any, arguments: tuple[Any, ...], value: Any, place: str, bounds: Mapping[str, Any], ignore_unknown: bool
) -> Any:
    _checked(value, isinstance(value, list), place, "a list")
    if origin is tuple and arguments[-1:] != (Ellipsis,):
        _checked(value, len(value) == len(arguments), place, f"a list of {len(arguments)}")
        hints = arguments
    else:
        hints = (arguments[0],) * len(value)
    found = (
        _value(hint, each, f"{place}[{number}]", bounds, ignore_unknown)
        for number, (hint, each) in enumerate(zip(hints, value, strict=True))
    )
    return tuple(found) if origin is not list else list(found)


def _one_of(arguments: tuple[Any, ...], value: Any, place: str, bounds: Mapping[str, Any], ignore_unknown: bool) -> Any:
    problem: InvalidJson | None = None
    for hint in arguments:
        try:
            return _value(hint, value, place, bounds, ignore_unknown)
        except InvalidJson as err:
            problem = problem or err
    assert problem is not None
    raise problem


def _checked(value: Any, is_valid: bool, place: str, expected: Any) -> Any:
    if not is_valid:
        raise InvalidJson(f"{place} is {_shown(value)}, expected {expected}")
    return value


def _range_text(bounds: Mapping[str, Any]) -> str:
    parts = [f"above {bounds['above']}"] if "above" in bounds else []
    parts += [f"at least {bounds['min']}"] if "min" in bounds else []
    parts += [f"at most {bounds['max']}"] if "max" in bounds else []
    return " and ".join(parts) or "a smaller number"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _refuse_constant(text: str) -> float:
    raise InvalidJson(f"{text} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InvalidJson(f"{text[:SHOWN]} is too large")
    return value


def _any_int(text: str) -> int | float:
    return int(text) if len(text) <= MOST_DIGITS else math.copysign(math.inf, -1 if text[0] == "-" else 1)


def _bounded(text: str) -> int:
    if len(text) > LONGEST_INT:
        raise InvalidJson(f"{text[:SHOWN]}... is too large")
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise InvalidJson(f"the key {next(key for key in keys if keys.count(key) > 1)[:SHOWN]!r} is given twice")
    return values


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise InvalidJson("nested too deeply")
        containers = [each for each in level if isinstance(each, dict | list)]
        level = [inner for each in containers for inner in (each.values() if isinstance(each, dict) else each)]
