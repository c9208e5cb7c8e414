"""A folder of samples that can be continued after a kill at any moment.

    000000.png ...   an image under its number
    images.jsonl     one line an image, appended once its picture is in place
    manifest.json    everything that decides what the images look like, and the totals of the finished run

An image is finished when its line and its picture exist; both are written atomically.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from medcli.engine.image_records import PICTURE, RECORDS, IndexSet, Record, file_name, read_records
from medcli.engine.pictures import (
    grid_capacity,
    grid_columns,
    grid_of,
    is_whole_npz,
    is_whole_png,
    read_png,
    write_npz,
    write_png,
)
from medcli.runtime.files import atomic_path, require_regular
from medcli.runtime.processes import Processes
from medcli.runtime.shared_work import SharedLines, SharedWork
from medcli.runtime.temporaries import is_temporary, sweep

LOCK = ".lock"
"""Lock file of the processes that fill a folder; removed by the last."""
GRID = "grid.png"
ARCHIVE = "samples.npz"


class SampleFolder:
    """An open sample folder that other processes may be filling too. Use as a context manager.

    Finished images take a byte each; all else about them stays in the file.

    Args:
        path: The folder.
        processes: The launch that fills it.
        is_possible: Returns False for a line that this run can't have written: its image is generated again.

    Raises:
        DataError: If its lines are no regular file.
        EnvironmentProblem: If it can't be written to, or not by several processes.
    """

    def __init__(
        self,
        path: Path,
        processes: Processes | None = None,
        is_possible: Callable[[Record], bool] = lambda _record: True,
    ) -> None:
        self.path, self._is_possible = path, is_possible
        require_regular(path / RECORDS)
        self._done = IndexSet()
        self._lines = SharedLines(path / RECORDS)
        self.work = SharedWork(
            path / LOCK, is_done=self.is_done, refresh=self.read_on, mend=self._mend, processes=processes
        )
        """The images as work that processes share."""

    def __enter__(self) -> SampleFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self.work.close()

    def add(self, record: Record, pixels_YXC: npt.NDArray[np.uint8]) -> None:
        """Store a finished image: the picture first, then its line. Threads may do so at once."""
        write_png(self.path / record.file, pixels_YXC)
        self._lines.append(record.to_line())
        self._done.add(record.index)

    def is_done(self, index: int) -> bool:
        """Return True for a finished image, by the lines read so far."""
        return index in self._done

    @property
    def num_done(self) -> int:
        """Number of finished images."""
        return len(self._done)

    def done(self) -> Iterator[int]:
        """Iterate over the indices of the finished images, rising."""
        return iter(self._done)

    def num_missing(self, num_images: int) -> int:
        """Count the missing ones of the first images."""
        return num_images - self._done.count_below(num_images)

    def read_on(self) -> None:
        """Read the lines that were appended since the last look."""
        for line in self._lines.new_lines():
            if record := Record.of_line(line):
                self._done.add(record.index)

    def records(self) -> Iterator[Record]:
        """Iterate over finished images in the order they finished."""
        seen = IndexSet()
        for record in read_records(self.path / RECORDS):
            if record is not None and self.is_done(record.index) and record.index not in seen:
                seen.add(record.index)
                yield record

    def write_grid(self, num_classes: int, side_px: int, names: Sequence[str] = ()) -> None:
        """Make `grid.png` of the first images; `names` of the classes are written above columns of one class."""
        shown = list(islice(self.done(), grid_capacity(side_px)))
        pictures = [read_png(self.path / file_name(index), side_px) for index in shown]
        columns = grid_columns(len(shown), num_classes)
        is_by_class = columns == num_classes and shown == list(range(len(shown)))
        write_png(self.path / GRID, grid_of(pictures, columns, names if is_by_class else ()))

    def has_grid(self) -> bool:
        """Return True if there is a whole `grid.png`."""
        return is_whole_png(self.path / GRID)

    def has_archive(self, side_px: int) -> bool:
        """Return True if there is a whole `samples.npz` of all images."""
        return is_whole_npz(self.path / ARCHIVE, self.num_done, side_px)

    def write_archive(self, side_px: int) -> None:
        """Make `samples.npz` of all images."""
        files = (self.path / file_name(index) for index in self.done())
        write_npz(self.path / ARCHIVE, files, self.num_done, side_px)

    def _mend(self) -> None:
        """Remove half-written files, torn lines and lines whose picture is gone; this process is alone."""
        self._lines.close()
        self._done = _mended(self.path, self._is_possible)
        self._lines.skip()


def _mended(path: Path, is_possible: Callable[[Record], bool]) -> IndexSet:
    """Make a folder's lines agree with its pictures; return the finished images."""
    pictures, seen = _tidy(path), IndexSet()

    def is_good(record: Record | None) -> bool:
        if record is None or record.index not in pictures or record.index in seen or not is_possible(record):
            return False
        seen.add(record.index)
        return True

    if all(is_good(record) for record in read_records(path / RECORDS)) and _ends_a_line(path / RECORDS):
        return seen
    seen = IndexSet()
    records = atomic_path(path / RECORDS, force=True, is_durable=True)
    with records as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(record.to_line() for record in read_records(path / RECORDS) if record and is_good(record))
    return seen


def _tidy(path: Path) -> IndexSet:
    """Remove half-written files and rename folders that take a picture's place; return images with a whole picture."""
    sweep(path, owned=True)
    pictures = IndexSet()
    with os.scandir(path) as entries:
        for entry in entries:
            if not PICTURE.fullmatch(entry.name):
                continue
            if entry.is_file() and is_whole_png(entry.path):
                pictures.add(int(entry.name[:-4]))
            elif entry.is_dir():
                os.replace(entry.path, path / f"{entry.name}.{secrets.token_hex(4)}")
    return pictures


def _ends_a_line(file: Path) -> bool:
    """Return True if the file is empty or missing, or ends with a line end."""
    if not file.is_file() or file.stat().st_size == 0:
        return True
    with file.open("rb") as content:
        content.seek(-1, os.SEEK_END)
        return content.read() == b"\n"


def is_transient(name: str) -> bool:
    """Return True for files that a run may leave that was killed before it wrote its manifest."""
    return name == LOCK or is_temporary(name)
