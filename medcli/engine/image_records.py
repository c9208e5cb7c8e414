"""The lines of `images.jsonl`: one a finished image, and what they add up to."""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

RECORDS = "images.jsonl"
CHUNK_BYTES = 1 << 20
PICTURE = re.compile(r"\d{6}\.png|[1-9]\d{6,8}\.png", re.ASCII)
"""Names that `file_name` makes."""


def file_name(index: int) -> str:
    """Return the name of an image's file (reference-facts 7)."""
    return f"{index:06d}.png"


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A line of `images.jsonl`."""

    index: int
    label: int
    file: str
    switch_steps: tuple[int, ...]
    gmacs: float

    def to_line(self) -> str:
        """Return one JSON object and a line end."""
        return json.dumps({**asdict(self), "switch_steps": list(self.switch_steps)}) + "\n"

    @classmethod
    def of_line(cls, line: str) -> Record | None:
        """Read a line back; None if it is torn or of another form."""
        try:
            values = json.loads(line)
            record = cls(**{**values, "switch_steps": tuple(values["switch_steps"])})
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        return record if record._is_valid else None

    @property
    def _is_valid(self) -> bool:
        """True if types and ranges are valid; JSON may hold anything."""
        numbers = (self.index, self.label, *self.switch_steps)
        if any(type(number) is not int or number < 0 for number in numbers) or self.file != file_name(self.index):
            return False
        return type(self.gmacs) in (int, float) and 0 <= self.gmacs < math.inf


def read_records(file: Path) -> Iterator[Record | None]:
    """Yield the lines of `images.jsonl`, None for an invalid one; nothing if there is no file."""
    if file.is_file():
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                yield Record.of_line(line)


def num_lines(folder: Path) -> int:
    """Count the lines of a folder's `images.jsonl`: its finished images, and perhaps torn lines."""
    file = folder / RECORDS
    if not file.is_file():
        return 0
    with file.open("rb") as content:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: content.read(CHUNK_BYTES), b""))


class IndexSet:
    """A set of image indices, a byte each, where a set of Python's takes sixty."""

    def __init__(self) -> None:
        self._flags = bytearray()

    def add(self, index: int) -> None:
        """Add an index; memory grows to the largest."""
        self._flags.extend(bytes(max(0, index + 1 - len(self._flags))))
        self._flags[index] = True

    def __contains__(self, index: int) -> bool:
        return index < len(self._flags) and bool(self._flags[index])

    def __len__(self) -> int:
        return self._flags.count(1)

    def __iter__(self) -> Iterator[int]:
        """Iterate in rising order."""
        return (index for index, is_in in enumerate(self._flags) if is_in)

    def count_below(self, limit: int) -> int:
        """Count the indices below a limit."""
        return self._flags.count(1, 0, limit)


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """Sums over the lines of a folder."""

    gmacs: float
    """Mean over the images."""
    switch_steps: tuple[tuple[int, ...], ...]
    """Switch steps of each image; equal ones share their memory."""
    switch_steps_mean: tuple[float | None, ...]
    """Mean step of each switch, over the images that made it; None where none did."""


def totals_of(records: Iterable[Record], num_moves: int) -> Totals:
    """Add up records.

    Args:
        records: In any order, which changes nothing.
        num_moves: Length of the ladder minus one.
    """
    known: dict[tuple[int, ...], tuple[int, ...]] = {}
    costs, moves = array("d"), list[tuple[int, ...]]()
    sums, counts = [0] * num_moves, [0] * num_moves
    for record in records:
        costs.append(record.gmacs)
        moves.append(known.setdefault(record.switch_steps, record.switch_steps))
        for move, step in enumerate(record.switch_steps):
            sums[move] += step
            counts[move] += 1
    return Totals(
        gmacs=math.fsum(costs) / max(1, len(costs)),
        switch_steps=tuple(moves),
        switch_steps_mean=tuple(total / count if count else None for total, count in zip(sums, counts, strict=True)),
    )
