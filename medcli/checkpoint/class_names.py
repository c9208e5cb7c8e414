"""Names of a model's classes: from diffusers' `id2label`, from folders of images; looked up for `--classes`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from medcli.errors import ConfigError, listed

SYNONYM_SEPARATOR = ","
"""A class may have several names, as ImageNet's have: `Samoyed, Samoyede`."""
MAX_NAME = 200
"""Characters of a name."""


def names_of_id2label(values: object, num_classes: int) -> tuple[str, ...]:
    """Read diffusers' `id2label`, a name by class number as text.

    Args:
        values: Its JSON value.
        num_classes: Classes of the model.

    Returns:
        A name for each class; empty if it does not name each of them.
    """
    held = values if isinstance(values, Mapping) else {}
    found = [held.get(str(number)) for number in range(min(num_classes, len(held)))]
    names = tuple(name.strip()[:MAX_NAME] for name in found if isinstance(name, str) and name.strip())
    return names if len(names) == num_classes else ()


def names_for(num_classes: int, *found: tuple[str, ...]) -> tuple[str, ...]:
    """Return the first of several lists that names all of so many classes; empty if none does."""
    return next((names for names in found if len(names) == num_classes), ())


def class_numbers(asked: Sequence[int | str], names: Sequence[str]) -> tuple[int, ...]:
    """Replace names of classes by their numbers; a name may be one of several of its class, in any case.

    Args:
        asked: Numbers and names.
        names: The model's class names; empty if it has none.

    Raises:
        ConfigError: If a name is of no class, or of several.
    """
    if all(isinstance(one, int) for one in asked):
        return tuple(one for one in asked if isinstance(one, int))
    by_name = _by_name(names)
    return tuple(one if isinstance(one, int) else _number(one, by_name) for one in asked)


def renumbered(names: Sequence[str], model_names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return the classes of a data set that a model knows under another number only, with both numbers, by name."""
    known = _by_name(model_names)
    found = {name: (number, known.get(_key(name), [])) for number, name in enumerate(names)}
    return {name: (ours, theirs[0]) for name, (ours, theirs) in found.items() if theirs and ours not in theirs}


def _by_name(names: Sequence[str]) -> dict[str, list[int]]:
    """Return the numbers of the classes that have each name."""
    found: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        for word in {_key(part) for part in (name, *name.split(SYNONYM_SEPARATOR))}:
            found.setdefault(word, []).append(number)
    return found


def _key(name: str) -> str:
    """Return the form in which names are compared."""
    return " ".join(name.replace("_", " ").split()).casefold()


def _number(name: str, by_name: Mapping[str, Any]) -> int:
    if not by_name:
        raise ConfigError(f"--classes {name}: this model's classes have no names", hint="pass numbers, or all")
    numbers: list[int] = by_name.get(_key(name), [])
    if not numbers:
        near = difflib.get_close_matches(_key(name), by_name, n=3) or list(by_name)[:3]
        raise ConfigError(f"--classes {name}: no class of this model has that name", hint=f"such as {listed(near)}")
    if len(numbers) > 1:
        raise ConfigError(
            f"--classes {name}: {len(numbers)} classes have that name",
            hint=f"pass one of {listed([*map(str, numbers)])}",
        )
    return numbers[0]
