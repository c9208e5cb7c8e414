"""A folder of samples: what it was made with, what is finished, and how to add to it without ever leaving it broken.

    000000.png ...   an image under its number
    images.jsonl     one line an image, appended once its picture is in place
    manifest.json    everything that decides what the images look like, and the totals of the finished run

An image is finished when its line and its picture are there. Both appear whole, so a run may be killed at any moment.
"""

from __future__ import annotations

import json
import math
import os
import re
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from medcli.engine.index_set import NumberSet
from medcli.engine.pictures import grid_capacity, grid_columns, grid_of, read_png, write_npz, write_png
from medcli.runtime.files import atomic_path
from medcli.runtime.locks import FolderLocks

RECORDS = "images.jsonl"
LOCK = ".lock"
"""Tells processes that fill a folder together of each other; gone when they are."""
GRID = "grid.png"
ARCHIVE = "samples.npz"
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A line of `images.jsonl`."""

    index: int
    label: int
    file: str
    switch_steps: tuple[int, ...]
    gmacs: float

    def to_line(self) -> str:
        """One JSON object and a line end."""
        return json.dumps({**asdict(self), "switch_steps": list(self.switch_steps)}) + "\n"

    @classmethod
    def of_line(cls, line: str) -> Record | None:
        """Read a line back; None if it is torn or not ours."""
        try:
            values = json.loads(line)
            record = cls(**{**values, "switch_steps": tuple(values["switch_steps"])})
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        return record if record._is_ours else None

    @property
    def _is_ours(self) -> bool:
        """Whether the values are what we write; what JSON gives may be anything."""
        numbers = (self.index, self.label, *self.switch_steps)
        if any(type(number) is not int or number < 0 for number in numbers) or self.file != file_name(self.index):
            return False
        return type(self.gmacs) in (int, float) and 0 <= self.gmacs < math.inf


PICTURE = re.compile(r"\d{6}\.png|[1-9]\d{6,8}\.png", re.ASCII)
"""Names that `file_name` makes."""


def file_name(index: int) -> str:
    """Name of an image's file (reference-facts 7)."""
    return f"{index:06d}.png"


class SampleFolder:
    """An open sample folder that other processes may be filling too. Use as a context manager.

    What is finished takes a byte an image; whatever else is known of it stands in the file.

    Args:
        path: The folder.

    Raises:
        EnvironmentProblem: If it can't be written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.locks = FolderLocks(path / LOCK)
        self._lines = -1
        self._done, self._read_to = NumberSet(), 0
        self._look()

    def __enter__(self) -> SampleFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        self.locks.close()

    def share(self) -> None:
        """Start adding images, and let other processes in. The manifest is there by then."""
        self._close()
        # One system call a line: lines of several writers never mix, and a killed one leaves at most a torn line.
        self._lines = os.open(self.path / RECORDS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self.locks.share()

    def wait_for_others(self) -> None:
        """Wait until no other process is here, and look again at what there is."""
        self._close()
        self.locks.wait_until_alone()
        self._look()

    def add(self, record: Record, pixels_YXC: npt.NDArray[np.uint8]) -> None:
        """Store a finished image: the picture first, then its line. Threads may do so at once."""
        write_png(self.path / record.file, pixels_YXC)
        os.write(self._lines, record.to_line().encode())
        self._done.add(record.index)

    def is_done(self, index: int) -> bool:
        """Whether an image is finished, as far as the lines read tell."""
        return index in self._done

    @property
    def num_done(self) -> int:
        """Images finished."""
        return len(self._done)

    def done(self) -> Iterator[int]:
        """Numbers of the finished images, rising."""
        return iter(self._done)

    def num_missing(self, num_images: int) -> int:
        """How many of the first images are not finished."""
        return num_images - self._done.count_below(num_images)

    def read_on(self) -> None:
        """Take note of the lines added since the last look."""
        file = self.path / RECORDS
        if not file.is_file() or file.stat().st_size == self._read_to:
            return
        with file.open("rb") as content:
            content.seek(self._read_to)
            for line in content:
                if not line.endswith(b"\n"):  # still being written, or torn
                    break
                self._read_to += len(line)
                if record := Record.of_line(line.decode("utf-8", "replace")):
                    self._done.add(record.index)

    def records(self) -> Iterator[Record]:
        """Finished images in the order they finished."""
        seen = NumberSet()
        for record in read_records(self.path / RECORDS):
            if record is not None and self.is_done(record.index) and record.index not in seen:
                seen.add(record.index)
                yield record

    def write_grid(self, num_classes: int, side_px: int) -> None:
        """Make `grid.png` of the first images."""
        shown = list(islice(self.done(), grid_capacity(side_px)))
        pictures = [read_png(self.path / file_name(index)) for index in shown]
        write_png(self.path / GRID, grid_of(pictures, grid_columns(len(shown), num_classes)))

    def write_archive(self, side_px: int) -> None:
        """Make `samples.npz` of all images."""
        files = (self.path / file_name(index) for index in self.done())
        write_npz(self.path / ARCHIVE, files, self.num_done, side_px)

    def _look(self) -> None:
        """Find out what is finished; alone, mend what an interruption left first."""
        if self.locks.is_alone:
            self._done = _mend(self.path)
            file = self.path / RECORDS
            self._read_to = file.stat().st_size if file.is_file() else 0
        else:
            self._done, self._read_to = NumberSet(), 0
            self.read_on()

    def _close(self) -> None:
        if self._lines >= 0:
            os.close(self._lines)
            self._lines = -1


def read_records(file: Path) -> Iterator[Record | None]:
    """The lines of `images.jsonl`, None for a torn one or one that is not ours; nothing if there is no file."""
    if file.is_file():
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                yield Record.of_line(line)


def num_lines(path: Path) -> int:
    """Lines of a folder's `images.jsonl`: its finished images, but for what an interruption left."""
    file = path / RECORDS
    if not file.is_file():
        return 0
    with file.open("rb") as content:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: content.read(CHUNK_BYTES), b""))


def _mend(path: Path) -> NumberSet:
    """Drop half-written files, torn lines and lines whose picture is gone; which images are finished."""
    pictures, seen = _tidy(path), NumberSet()

    def is_good(record: Record | None) -> bool:
        if record is None or record.index not in pictures or record.index in seen:
            return False
        seen.add(record.index)
        return True

    if all(is_good(record) for record in read_records(path / RECORDS)) and _ends_a_line(path / RECORDS):
        return seen
    seen = NumberSet()
    with atomic_path(path / RECORDS, force=True) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(record.to_line() for record in read_records(path / RECORDS) if record and is_good(record))
    return seen


def _tidy(path: Path) -> NumberSet:
    """Drop half-written files; which images have a picture."""
    pictures = NumberSet()
    with os.scandir(path) as entries:
        for entry in entries:
            if _is_temporary(entry.name):
                with suppress(FileNotFoundError):
                    (path / entry.name).unlink()
            elif PICTURE.fullmatch(entry.name):
                pictures.add(int(entry.name[:-4]))
    return pictures


def _ends_a_line(file: Path) -> bool:
    """Whether the next line would start on its own; true of no file, too."""
    if not file.is_file() or file.stat().st_size == 0:
        return True
    with file.open("rb") as content:
        content.seek(-1, os.SEEK_END)
        return content.read() == b"\n"


def is_passing(name: str) -> bool:
    """Whether a run that has not got as far as its manifest may have left this."""
    return name == LOCK or _is_temporary(name)


def _is_temporary(name: str) -> bool:
    """Whether a killed run left this half-written file (see `medcli.runtime.files`)."""
    return name.startswith(".") and ".tmp-" in name


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """What the lines of a folder add up to."""

    gmacs: float
    """Mean over the images."""
    switch_steps: tuple[tuple[int, ...], ...]
    """Each image's moves along the ladder; equal ones share their memory."""
    switch_steps_mean: tuple[float | None, ...]
    """Mean step of each move, over the images that made it; None where none did."""


def totals_of(records: Iterable[Record], num_moves: int) -> Totals:
    """Add up.

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
