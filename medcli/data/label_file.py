"""Labels of images in a file of their own: JSON as StyleGAN, EDM and REPA write it, a plain JSON table, or CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medcli.errors import DataError

LABEL_FILES = ("dataset.json", "labels.json", "labels.csv")
"""Where labels are looked for beside the images, the first that is there."""

EXPECTED = 'expected {"labels": [["a/1.png", 3], ...]}, {"a/1.png": 3, ...} or CSV lines such as a/1.png,3'


def find_label_file(folder: Path) -> Path | None:
    """The file of labels in a folder, if it has one."""
    return next((folder / name for name in LABEL_FILES if (folder / name).is_file()), None)


def read_labels(path: Path) -> dict[str, int]:
    """Read a file of labels.

    Args:
        path: A `.json` or `.csv` file.

    Returns:
        The label of each file, by its path as it is written there, in sorted order.

    Raises:
        DataError: If it can't be read, names a file twice, or a label is no whole number from 0.
    """
    try:
        pairs = _csv_pairs(path) if path.suffix.lower() == ".csv" else _json_pairs(path)
        labels: dict[str, int] = {}
        for name, value in pairs:
            label = _whole_number(value)
            if label is None:
                raise DataError(
                    f"{path}: the label of {name} is {value!r}, expected a whole number from 0",
                    hint="number the classes from 0, or use one folder a class",
                )
            if name in labels:
                raise DataError(f"{path} names {name} twice", hint="keep one of the two")
            labels[name] = label
    except OSError as err:
        raise DataError(f"{path} can't be read: {err.strerror}", hint="check the path and who may read it") from err
    except (ValueError, TypeError, RecursionError, csv.Error) as err:
        raise DataError(f"{path} holds no labels of images", hint=EXPECTED) from err
    if not labels:
        raise DataError(f"{path} names no images", hint=EXPECTED)
    return dict(sorted(labels.items()))


def _json_pairs(path: Path) -> Iterable[tuple[str, Any]]:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    pairs = content["labels"] if isinstance(content, dict) and set(content) == {"labels"} else content
    if pairs is None:
        raise DataError(f"{path} says that the images have no labels", hint="training needs a class for each image")
    if isinstance(pairs, dict):
        pairs = pairs.items()
    for name, value in pairs:
        if not isinstance(name, str):
            raise TypeError(f"{name!r} is no path")
        yield name, value


def _csv_pairs(path: Path) -> Iterable[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(row for row in csv.reader(file) if row):
            name, value = (part.strip() for part in row)
            is_heading = number == 0 and not value.isdecimal()
            if not is_heading:
                yield name, int(value) if value.isdecimal() else value


def _whole_number(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**31 else None
