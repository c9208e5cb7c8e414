"""Read JSON files from any source: values of another type than expected are refused or left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medcli.data.image_files import unreadable
from medcli.errors import DataError
from medcli.runtime import json_records
from medcli.runtime.files import require_regular

Json = Mapping[str, Any]
LARGEST = 1e100
"""Bound on numbers: no measurement is larger, and differences of smaller numbers stay finite."""


def read_json(path: Path) -> Json:
    """Read a file that holds a JSON object.

    Raises:
        DataError: If it can't be read, or holds something else.
    """
    content = read_value(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} does not hold a JSON object", hint="make it again with the command that wrote it")
    return content


def read_value(path: Path) -> Any:
    """Read a file of one JSON value.

    Raises:
        DataError: If it is missing or not valid JSON.
        EnvironmentProblem: If it can't be read.
    """
    require_regular(path)
    try:
        return json_records.read_json(path, allow_nan=True)
    except OSError as err:
        raise unreadable(path, err) from err
    except json_records.InvalidJson as err:
        hint = "make it again with the command that wrote it"
        raise DataError(f"{path} can't be read as JSON: {err}", hint=hint) from err


def number(value: object) -> float | None:
    """Return a finite number as a float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -LARGEST < value < LARGEST else None


def text(value: object, default: str = "-") -> str:
    """Return non-empty text; the default for anything else."""
    return value if isinstance(value, str) and value else default


def look_up(values: object, *keys: str) -> Any:
    """Nested look-up; None if a key is missing."""
    for key in keys:
        if not isinstance(values, Mapping):
            return None
        values = values.get(key)
    return values


def rows_of(values: object) -> list[Json]:
    """Return the objects in a list."""
    return [row for row in values if isinstance(row, Mapping)] if isinstance(values, list) else []


def numbers(values: object, what: str) -> tuple[float, ...]:
    """Return a list of finite numbers.

    Raises:
        DataError: If it is anything else.
    """
    found = [number(value) for value in values] if isinstance(values, list) else [None]
    if None in found:
        raise DataError(f"{what} is no list of numbers", hint="make the file again with the command that wrote it")
    return tuple(value for value in found if value is not None)


def rounded(value: object, digits: int = 4) -> str:
    """Format a number with `digits` significant digits; a dash for anything else."""
    found = number(value)
    if found is None:
        return "-"
    return f"{found:,.0f}" if found == round(found) and abs(found) < 1e12 else f"{found:.{digits}g}"


def join(values: Iterable[object], separator: str = ", ") -> str:
    """Join values into text; a dash if there are none."""
    return separator.join(map(str, values)) or "-"


def checkpoint_facts(settings: object) -> list[tuple[str, str]]:
    """Return the name of each checkpoint of a run, and its hash or fingerprint."""
    files = rows_of(look_up(settings, "checkpoints"))
    return [
        (f"checkpoint {text(one.get('file'))}, {name}", text(one[key]))
        for one in files
        for key, name in (("sha256", "SHA-256"), ("fingerprint", "fingerprint"))
        if one.get(key)
    ]


def as_list(value: object) -> Sequence[Any]:
    """Return a list; an empty one for anything else."""
    return value if isinstance(value, list) else ()
