"""Read rows of many large files in any order: exactly their bytes, without a mapping and the kernel's read-ahead.

A page fault in a mapping reads a window of the device's read-ahead, 128 KB to 8 MB, around a row of 32 KB.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from medcli.data.image_files import unreadable
from medcli.errors import DataError
from medcli.runtime.positional import read_at

FEWEST_OPEN = 64
"""Files that are kept open even where the system allows few."""


class Place(NamedTuple):
    """Place in a file."""

    file: int
    """Number of the file."""
    offset: int


class FileState(NamedTuple):
    """Size and time of a file, which change with its content."""

    num_bytes: int
    modified_ns: int


class ShardReader:
    """Reads bytes of files, which must not change meanwhile; several threads may read at once.

    As many files as half the process may open are kept open.

    Args:
        files: The files.
        states: Their sizes and times when their headers were read.
    """

    def __init__(self, files: Sequence[Path], states: Sequence[FileState]) -> None:
        self._files, self._states = files, states
        self._lock = Lock()
        self._kept: dict[int, int] = {}
        self._max_kept = max(FEWEST_OPEN, _max_open() // 2)
        weakref.finalize(self, _close_all, self._kept)

    def read(self, place: Place, content: memoryview) -> None:
        """Fill `content` from a place on.

        Raises:
            DataError: If the file was replaced or cut since its header was read.
            EnvironmentProblem: If it can't be read.
        """
        path = self._files[place.file]
        try:
            descriptor, is_kept = self._opened(place.file)
            try:
                num_read = read_at(descriptor, content, place.offset)
            finally:
                if not is_kept:
                    os.close(descriptor)
        except OSError as err:
            raise unreadable(path, err) from err
        if num_read < len(content):
            raise _changed(path)

    def _opened(self, number: int) -> tuple[int, bool]:
        """Return a descriptor of a file, and True if it is kept open."""
        with self._lock:
            if number in self._kept:
                return self._kept[number], True
        descriptor = os.open(self._files[number], os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            if state_of(os.fstat(descriptor)) != self._states[number]:
                raise _changed(self._files[number])
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        except BaseException:
            os.close(descriptor)
            raise
        with self._lock:
            is_kept = number not in self._kept and len(self._kept) < self._max_kept
            if is_kept:
                self._kept[number] = descriptor
        return descriptor, is_kept


def state_of(status: os.stat_result) -> FileState:
    """Return the size and time of a file."""
    return FileState(status.st_size, status.st_mtime_ns)


def _max_open() -> int:
    """Return the number of files this process may have open."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1 << 16


def _close_all(descriptors: dict[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)


def _changed(path: Path) -> DataError:
    return DataError(f"{path} was changed while it was in use", hint="run the command again once it is whole")
