"""The lines of a sample folder: one a finished image, and what they add up to.

They are in `images.jsonl`, and while several processes fill the folder also in a file of each: files that two machines
append to lose lines on NFS.
"""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from medcli.runtime.json_records import InvalidJson, as_record, parse_json
from medcli.runtime.presence import SIGNS

RECORDS = "images.jsonl"
CHUNK_BYTES = 1 << 20
MAX_LINE = 1 << 16
"""Characters of a line that are read; real ones have about a hundred."""
MAX_INDEX = 10**8 - 1
MAX_GMACS = 1e18
"""Bound on costs, so that their sums are finite."""
_WHOLE, _DECIMAL = "(?:0|[1-9][0-9]{0,17})", "(?:\\.[0-9]{1,20})?(?:e-[0-9]{1,3})?"
LINE = re.compile(
    rf'\{{"index": ({_WHOLE}), "label": ({_WHOLE}), "file": "([0-9]+\.png)", '
    rf'"switch_steps": \[((?:{_WHOLE}(?:, {_WHOLE})*)?)\], "gmacs": ({_WHOLE}{_DECIMAL})\}}\n?'
)
"""Form of the lines that `to_line` writes, which a million times is read faster than any JSON."""
LINES_OF_PROCESS = re.compile(r"[0-9a-f]{16}\.jsonl")
"""Names of the files of processes; others that someone keeps there are left alone."""
PICTURE = re.compile(r"\d{6}\.png|[1-9]\d{6,7}\.png", re.ASCII)
"""Names that `file_name` makes."""


def file_name(index: int) -> str:
    """Return the name of an image's file (reference-facts 7)."""
    return f"{index:06d}.png"


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A line of `images.jsonl`."""

    index: int = field(metadata={"min": 0, "max": MAX_INDEX})
    label: int = field(metadata={"min": 0})
    file: str
    switch_steps: tuple[int, ...] = field(metadata={"min": 0})
    gmacs: float = field(metadata={"min": 0, "max": MAX_GMACS})

    def to_line(self) -> str:
        """Return one JSON object and a line end."""
        return json.dumps({**asdict(self), "switch_steps": list(self.switch_steps)}) + "\n"

    @classmethod
    def of_line(cls, line: str) -> Record | None:
        """Read a line back; None if it is torn or of another form."""
        if match := LINE.fullmatch(line):
            steps = tuple(map(int, match[4].split(", "))) if match[4] else ()
            index, label, file = int(match[1]), int(match[2]), match[3]
            if index > MAX_INDEX or file != file_name(index):
                return None
            return cls(index=index, label=label, file=file, switch_steps=steps, gmacs=float(match[5]))
        try:
            record = as_record(cls, parse_json(line, MAX_LINE))
        except InvalidJson:
            return None
        return record if record.file == file_name(record.index) else None


def record_files(folder: Path) -> list[Path]:
    """Return `images.jsonl`, which need not exist, and the files of processes that are not merged into it yet."""
    others = (path for path in (folder / SIGNS).glob("*.jsonl") if LINES_OF_PROCESS.fullmatch(path.name))
    return [folder / RECORDS, *sorted(filter(Path.is_file, others))]


def read_records(folder: Path, is_good: Callable[[Record], bool] = lambda _record: True) -> Iterator[Record | None]:
    """Yield the lines of a folder, None for one that is invalid, not good, or names an image again."""
    seen = IndexSet()
    for file in filter(Path.is_file, record_files(folder)):
        with file.open(encoding="utf-8", errors="replace") as lines:
            while line := lines.readline(MAX_LINE):
                record = Record.of_line(line)
                if record and (record.index in seen or not is_good(record)):
                    record = None
                elif record:
                    seen.add(record.index)
                yield record


def num_lines(folder: Path) -> int:
    """Count the lines of a folder: its finished images, and perhaps torn lines."""
    total = 0
    for file in filter(Path.is_file, record_files(folder)):
        with file.open("rb") as content:
            total += sum(chunk.count(b"\n") for chunk in iter(lambda: content.read(CHUNK_BYTES), b""))
    return total


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
