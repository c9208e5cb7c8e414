"""Locks between processes that share nothing but a folder.

They are byte-range locks on one file: they vanish with the process that holds them, however it ends, so a kill leaves
nothing to clean up. They work between machines where the shared file system keeps them, as NFS does.

The file holds one number, the cursor: the first item that nobody has taken. It is read and moved under a lock, which is
when NFS promises that every machine sees the same bytes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from medcli.errors import EnvironmentProblem

try:
    import fcntl
except ImportError:  # Windows
    HAS_LOCKS = False
else:
    HAS_LOCKS = True

HELD = frozenset({errno.EACCES, errno.EAGAIN})
PRESENCE, CURSOR, FIRST_NUMBER = 0, 1, 2
"""Bytes that are locked."""
CURSOR_BYTES = 8


class FolderLocks:
    """Presence in a folder, and numbers claimed by one process.

    A process that is alone holds its presence exclusively and may repair the folder; otherwise all share it.

    POSIX drops all of a process's locks on a file when it closes any descriptor of it: one process may open a lock
    file once at a time.

    Args:
        path: The lock file, in a folder that is made if need be. The last process to close it removes it.

    Raises:
        EnvironmentProblem: If the place can't be written to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.works = HAS_LOCKS
        """True if the file system supports locks; if not, a single process is assumed."""
        self.is_alone = False
        self._file = self._open()
        while not self._enter():
            os.close(self._file)
            self._file = self._open()
        self._reset_cursor()

    def close(self) -> None:
        """Release everything."""
        if self._is_current() and self._try_presence(alone=True):
            with suppress(PermissionError):  # Windows keeps files that are open
                self._path.unlink()
        os.close(self._file)

    def share(self) -> None:
        """Let other processes in."""
        self._try_presence(alone=False)
        self.is_alone = False

    def wait_until_alone(self) -> None:
        """Release everything and return once no other process is present."""
        is_waiting = True
        while is_waiting:
            os.close(self._file)
            self._file = self._open()
            self._try_presence(alone=True, wait=True)
            is_waiting = not self._is_current()
        self.is_alone = True
        self._reset_cursor()

    def claim(self, number: int) -> bool:
        """Claim a number, from 0, unless another live process has it."""
        return self._try_lock(FIRST_NUMBER + number, alone=True, wait=False)

    def cursor(self) -> int:
        """Return a lower bound of the first free item, without a lock: a network file system may show an older one."""
        return int.from_bytes(os.pread(self._file, CURSOR_BYTES, 0), "little")

    def advance(self, moved: Callable[[int], int]) -> range:
        """Take items that nobody has taken since a process was last alone, and move the cursor behind them.

        Args:
            moved: From the first free item to the one behind those to take.
        """
        self._try_lock(CURSOR, alone=True, wait=True)
        try:
            start = self.cursor()
            stop = moved(start)
            os.pwrite(self._file, stop.to_bytes(CURSOR_BYTES, "little"), 0)
        finally:
            if self.works:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, CURSOR)
        return range(start, stop)

    def _reset_cursor(self) -> None:
        """Set the cursor to 0; a full disk is found here and not by `advance`."""
        if self.is_alone:
            try:
                os.pwrite(self._file, bytes(CURSOR_BYTES), 0)
            except OSError as err:
                raise unwritable(self._path.parent, err) from err

    def _enter(self) -> bool:
        """Become present; False if the last process removed the file meanwhile."""
        self.is_alone = self._try_presence(alone=True)
        if not self.is_alone:
            self._try_presence(alone=False, wait=True)
        return self._is_current()

    def _try_presence(self, *, alone: bool, wait: bool = False) -> bool:
        return self._try_lock(PRESENCE, alone=alone, wait=wait)

    def _try_lock(self, place: int, *, alone: bool, wait: bool) -> bool:
        if not self.works:
            return True
        kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        try:
            fcntl.lockf(self._file, kind if wait else kind | fcntl.LOCK_NB, 1, place)
        except OSError as err:
            self.works = err.errno in HELD
            return not self.works
        return True

    def _open(self) -> int:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as err:
            raise unwritable(self._path.parent, err) from err

    def _is_current(self) -> bool:
        """Return True if the open file is still the one under its name."""
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._file))


def unwritable(folder: Path, err: OSError) -> EnvironmentProblem:
    """Make the error of a folder that can't be written to."""
    return EnvironmentProblem(
        f"can't write {folder}: {os.strerror(err.errno or 0)}",
        hint="choose a name in a folder you may write to with --output",
    )
