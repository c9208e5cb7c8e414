"""Read files of labels: JSON as StyleGAN, EDM and REPA write it, a plain JSON table, or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medcli.data.image_files import unreadable
from medcli.errors import DataError
from medcli.runtime.files import require_regular

LABEL_FILES = ("dataset.json", "labels.json", "labels.csv")
"""Names of label files beside the images; the first that exists is used."""

EXPECTED = 'expected {"labels": [["a/1.png", 3], ...]}, {"a/1.png": 3, ...} or CSV lines such as a/1.png,3'

MAX_BYTES = 512 * 2**20
"""Bound on a file of labels: ImageNet's takes 40 MB."""
MAX_LABEL, MAX_DIGITS = 2**31, 12
SHOWN = 40
"""Characters of a wrong label shown in an error."""


def find_label_file(folder: Path) -> Path | None:
    """Return the file of labels of a folder, if it has one."""
    return next((folder / name for name in LABEL_FILES if (folder / name).is_file()), None)


def read_labels(path: Path) -> dict[str, int]:
    """Read a file of labels.

    Args:
        path: A `.json` or `.csv` file.

    Returns:
        The label of each file, by its path as it is written there, in sorted order.

    Raises:
        DataError: If it is not a file of labels, names a file twice, or a label is not a whole number from 0.
        EnvironmentProblem: If it can't be read.
    """
    require_regular(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as err:
        raise unreadable(path, err) from err
    if len(content) > MAX_BYTES:
        raise DataError(f"{path} has more than {MAX_BYTES:,} bytes", hint=EXPECTED)
    is_csv = path.suffix.lower() == ".csv"
    labels: dict[str, int] = {}
    try:
        for name, value in _csv_pairs(content) if is_csv else _json_pairs(path, content):
            if type(value) is not int or not 0 <= value < MAX_LABEL:
                raise DataError(
                    f"{path}: the label of {name} is {_short(value)}, expected a whole number from 0",
                    hint="number the classes from 0, or use one folder a class",
                )
            if name in labels:
                raise DataError(f"{path} names {name} twice", hint="keep one of the two")
            labels[name] = value
    except (ValueError, TypeError, RecursionError, csv.Error) as err:
        raise DataError(f"{path} holds no labels of images", hint=EXPECTED) from err
    if not labels:
        raise DataError(f"{path} names no images", hint=EXPECTED)
    return dict(sorted(labels.items()))


class _Pairs(list[tuple[str, Any]]):
    """Members of a JSON object, with names that are given twice."""


def _json_pairs(path: Path, content: bytes) -> Iterable[tuple[str, Any]]:
    pairs = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_Pairs)
    if isinstance(pairs, _Pairs) and [name for name, _ in pairs] == ["labels"]:
        pairs = pairs[0][1]
    if pairs is None:
        raise DataError(f"{path} says that the images have no labels", hint="training needs a class for each image")
    for name, value in pairs:
        if not isinstance(name, str):
            raise TypeError(f"{name!r} is no path")
        yield name, value


def _csv_pairs(content: bytes) -> Iterable[tuple[str, Any]]:
    lines = io.StringIO(content.decode("utf-8-sig"), newline="")
    for number, row in enumerate(row for row in csv.reader(lines) if row):
        name, value = (part.strip() for part in row)
        if number == 0 and "." not in name and value[:1].isalpha():
            continue  # a heading
        yield name, int(value) if value.isascii() and value.isdecimal() and len(value) < MAX_DIGITS else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
