"""A folder of samples that can be continued after a kill at any moment.

    000000.png ...   an image under its number
    images.jsonl     one line an image, appended once its picture is in place
    manifest.json    everything that decides what the images look like, and the totals of the finished run
    .processes/      while processes fill the folder: a sign of life of each, and the lines of all but the first

An image is finished when its line and its picture exist; both are written atomically. No file is written by two
processes at a time; whoever is alone in the folder merges their lines into `images.jsonl`.
"""

from __future__ import annotations

import os
import secrets
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from medcli.engine.archive_slots import ArchiveSlots, is_slots, remove_slots
from medcli.engine.image_records import PICTURE, RECORDS, IndexSet, Record, file_name, read_records, record_files
from medcli.engine.pictures import (
    grid_capacity,
    grid_columns,
    grid_of,
    is_whole_npz,
    is_whole_png,
    read_png,
    write_png,
)
from medcli.engine.sessions import Session, read_sessions
from medcli.runtime.files import atomic_path, require_regular
from medcli.runtime.presence import SIGNS, Presence
from medcli.runtime.processes import Processes
from medcli.runtime.shared_lines import SharedLines, ends_a_line
from medcli.runtime.shared_work import SharedWork
from medcli.runtime.temporaries import is_temporary, sweep

LOCK = ".lock"
"""Lock file of the processes that fill a folder; removed by the last."""
GRID = "grid.png"
ARCHIVE = "samples.npz"
ALONE = Processes()
"""The process of a launch of one."""


class SampleFolder:
    """An open sample folder that other processes may be filling too. Use as a context manager.

    Finished images take a byte each; all else about them stays in the file.

    Args:
        processes: The launch that fills it.
        is_possible: Returns False for a line that this run can't have written: its image is generated again.
        side_px: Side of its images: one of another size is generated again; None: any.

    Raises:
        DataError: If its lines are no regular file.
        EnvironmentProblem: If it can't be written to, or not by several processes.
    """

    def __init__(
        self,
        path: Path,
        processes: Processes = ALONE,
        is_possible: Callable[[Record], bool] = lambda _record: True,
        side_px: int | None = None,
    ) -> None:
        self.path, self._is_possible, self._side_px = path, is_possible, side_px
        require_regular(path / RECORDS)
        self._done, self._made = IndexSet(), IndexSet()
        self._part = processes.part if processes.is_divided else None
        self._has_records = processes.is_divided and processes.is_first and processes.num_shards == 1
        self._own: SharedLines | None = None
        self._slots: ArchiveSlots | None = None
        self._readers: dict[Path, SharedLines] = {}
        self.sessions: list[Session] = []
        """Sessions of this process, and of others whose lines it has merged."""
        self.work = SharedWork(
            path / LOCK, is_done=self.is_done, refresh=self.read_on, mend=self._mend, processes=processes
        )
        """The images as work that processes share."""

    def __enter__(self) -> SampleFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_own()
        if self._slots:
            self._slots.close()
        self.work.close(failed=error is not None)

    def add(self, record: Record, pixels_YXC: npt.NDArray[np.uint8]) -> None:
        """Store a finished image: the picture first, then its line. Threads may do so at once."""
        if self._slots:
            self._slots.put(record.index, pixels_YXC)
        write_png(self.path / record.file, pixels_YXC)
        self.add_copied(record)
        self._made.add(record.index)

    def add_copied(self, record: Record) -> None:
        """Add the line of an image whose picture is in place."""
        self._append(record.to_line())
        self._done.add(record.index)

    def end_session(self, session: Session) -> None:
        """Record how long this process took for its images."""
        self.sessions.append(session)
        if not self._has_records:
            self._append(session.to_line())

    def is_done(self, index: int) -> bool:
        """Return True for a finished image, by the lines read so far."""
        return index in self._done

    @property
    def num_done(self) -> int:
        """Number of finished images."""
        return len(self._done)

    @property
    def num_made(self) -> int:
        """Number of images this process has added."""
        return len(self._made)

    def done(self) -> Iterator[int]:
        """Iterate over the indices of the finished images, rising."""
        return iter(self._done)

    def num_missing(self, num_images: int) -> int:
        """Count the missing ones of the first images."""
        return num_images - self._done.count_below(num_images)

    def read_on(self) -> None:
        """Read the lines that were appended since the last look."""
        # A process that divides the work with others is never alone to mend the folder: it checks its own part.
        is_checked = self._part is not None and not self._readers
        for file in record_files(self.path):
            for line in self._readers.setdefault(file, SharedLines(file)).new_lines():
                if (record := Record.of_line(line)) and not (is_checked and self._is_damaged(record)):
                    self._done.add(record.index)

    def records(self) -> Iterator[Record]:
        """Iterate over finished images in the order they finished."""
        return filter(None, read_records(self.path, lambda record: self.is_done(record.index)))

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

    def fill_archive(self, num_images: int, side_px: int) -> None:
        """Write each image that is added to its place in the coming archive of so many images, too."""
        self._slots = ArchiveSlots(self.path, num_images, side_px)

    def write_archive(self, side_px: int) -> None:
        """Make `samples.npz` of all images: what its places lack is read from the pictures."""

        def read(index: int) -> npt.NDArray[np.uint8]:
            return read_png(self.path / file_name(index), side_px)

        slots = ArchiveSlots(self.path, self.num_done, side_px)
        try:
            slots.finish(self.path / ARCHIVE, array("q", self.done()), read)
        finally:
            slots.close()

    def drop_archive(self) -> None:
        """Remove an unfinished archive that is no longer asked for."""
        remove_slots(self.path)

    def _append(self, line: str) -> None:
        if self._own is None:
            assert self.work.presence
            self._own = SharedLines(self.path / RECORDS if self._has_records else _lines_of(self.work.presence))
        self._own.append(line)

    def _close_own(self) -> None:
        if self._own:
            self._own.close()
        self._own = None

    def _is_damaged(self, record: Record) -> bool:
        """Return True for a line of this process's part that no run writes, or whose picture is not there."""
        assert self._part
        if record.index not in self._part.of(record.index + 1):
            return False
        return not (self._is_possible(record) and is_whole_png(self.path / record.file, self._side_px))

    def _mend(self) -> None:
        """Remove half-written files, torn lines and lines whose picture is gone, and merge the lines of all processes.

        This process is alone.
        """
        self._close_own()
        self._done = _mended(self.path, self._is_possible, self._side_px)
        for file in record_files(self.path)[1:]:
            self.sessions += [session for session in read_sessions(file) if session not in self.sessions]
            file.unlink(missing_ok=True)
        self._has_records = True
        self._readers = {self.path / RECORDS: SharedLines(self.path / RECORDS)}
        self._readers[self.path / RECORDS].skip()


def _lines_of(presence: Presence) -> Path:
    return presence.folder / f"{presence.id}.jsonl"


def _mended(path: Path, is_possible: Callable[[Record], bool], side_px: int | None) -> IndexSet:
    """Make a folder's lines agree with its pictures, in one file; return the finished images."""
    pictures, seen = _tidy(path, side_px), IndexSet()

    def is_good(record: Record) -> bool:
        return record.index in pictures and is_possible(record)

    # Lines that are appended to a linked file would land in another folder.
    is_linked = (path / RECORDS).is_symlink()
    is_whole = len(record_files(path)) == 1 and ends_a_line(path / RECORDS) and not is_linked
    for record in read_records(path, is_good):
        if record is None:
            is_whole = False
        else:
            seen.add(record.index)
    if not is_whole:
        records = atomic_path(path / RECORDS, force=True, is_durable=True)
        with records as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(record.to_line() for record in read_records(path, is_good) if record)
    return seen


def _tidy(path: Path, side_px: int | None) -> IndexSet:
    """Remove half-written files and rename folders that take a picture's place; return images with a whole picture."""
    sweep(path, owned=True)
    pictures = IndexSet()
    with os.scandir(path) as entries:
        for entry in entries:
            if not PICTURE.fullmatch(entry.name):
                continue
            if entry.is_file() and is_whole_png(entry.path, side_px):
                pictures.add(int(entry.name[:-4]))
            elif entry.is_dir():
                os.replace(entry.path, path / f"{entry.name}.{secrets.token_hex(4)}")
    return pictures


def is_transient(name: str) -> bool:
    """Return True for files that a run may leave that was killed before it wrote its manifest."""
    return name in (LOCK, SIGNS) or is_slots(name) or is_temporary(name)
