"""Temporary files and folders beside an output.

Each has a random name, is made with O_EXCL, and is locked by its process for as long as that lives, so that the next
run distinguishes temporaries of dead processes from those of live ones, on this machine and on shared file systems with
locks. Process ids are not used: two containers have the same ones.
"""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import shutil
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    HAS_LOCKS = False
else:
    HAS_LOCKS = True

OURS = re.compile(r"\.(?P<stem>.+)\.tmp-(\d+|[0-9a-f]{16})(?P<suffix>\.[^.]*)?", re.DOTALL)
"""Names of temporaries; those of earlier versions had a process id."""
SAFETENSORS = re.compile(r"\.tmp[A-Za-z0-9]{6}")
"""Names of those the safetensors library makes beside a file it writes."""
STALE_S = 24 * 3600
"""Age in seconds from which a temporary counts as dead if there are no locks."""
AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""From Linux's fcntl.h and fs.h."""
STEM_BYTES, SUFFIX_CHARS = 100, 20


@dataclass(frozen=True, slots=True)
class Temporary:
    """A temporary of this process, locked until it is closed."""

    path: Path
    descriptor: int

    def remove(self) -> None:
        """Remove it and all it holds."""
        if stat.S_ISDIR(os.fstat(self.descriptor).st_mode):
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            with suppress(OSError):
                self.path.unlink()

    def close(self) -> None:
        """Release the lock."""
        os.close(self.descriptor)


def make_temporary(target: Path, *, is_folder: bool = False) -> Temporary:
    """Make an empty temporary beside a target, with its suffix.

    Raises:
        OSError: If the folder can't be written to.
    """
    while True:
        path = _random_name(target)
        if is_folder:
            path.mkdir()
            descriptor = os.open(path, os.O_RDONLY)
        else:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        if _lock(descriptor, wait=True) is None or os.fstat(descriptor).st_nlink:
            return Temporary(path, descriptor)
        # Another process swept it between the two calls.
        os.close(descriptor)


def replace_folder(temporary: Path, target: Path) -> None:
    """Rename a temporary folder to its target; an older folder of that name is replaced and removed.

    Raises:
        OSError: If the system refuses; the older folder is still in place.
    """
    if not target.exists():
        os.replace(temporary, target)
        return
    if not _exchange(temporary, target):
        aside = _random_name(target)
        os.replace(target, aside)
        try:
            os.replace(temporary, target)
        except BaseException:
            os.replace(aside, target)
            raise
        temporary = aside
    shutil.rmtree(temporary, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one call of the system, where it has that call; return False where not."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    result: int = renameat2(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE)
    return result == 0


def sweep(folder: Path, target: Path | None = None, *, owned: bool = False) -> None:
    """Remove temporaries of dead processes.

    Args:
        folder: Where they are.
        target: Remove only those of this output; None: all.
        owned: Include the safetensors library's, which are not locked, once they are old: nobody else writes here.
    """
    names = _random_name(target).name.split(".tmp-")[0][1:] if target else None

    def is_meant(name: str) -> bool:
        if match := OURS.fullmatch(name):
            return names is None or (match["stem"] == names and (match["suffix"] or "") == _suffix(target))
        return owned and SAFETENSORS.fullmatch(name) is not None

    with suppress(OSError), os.scandir(folder) as entries:
        for path in [Path(entry.path) for entry in entries if entry.name.startswith(".") and is_meant(entry.name)]:
            _sweep_one(path)


def is_temporary(name: str) -> bool:
    """Return True for the name of a temporary."""
    return OURS.fullmatch(name) is not None


def _sweep_one(path: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        try:
            state = os.fstat(descriptor)
            if not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):
                return
            is_free = None if SAFETENSORS.fullmatch(path.name) else _lock(descriptor, wait=False)
            if is_free is None:
                is_free = time.time() - state.st_mtime > STALE_S
            if is_free:
                Temporary(path, descriptor).remove()
        finally:
            os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> bool | None:
    """Lock an open file; return False if another process has it, None where there are no locks."""
    if not HAS_LOCKS:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _random_name(target: Path) -> Path:
    # Long names are cut: the temporary name must not pass the file system's limit where the target's does not.
    suffix = _suffix(target)
    stem = target.name[: len(target.name) - len(suffix)] if suffix else target.name
    short = os.fsdecode(os.fsencode(stem)[:STEM_BYTES])
    return target.with_name(f".{short}.tmp-{secrets.token_hex(8)}{suffix}")


def _suffix(target: Path | None) -> str:
    suffix = "" if target is None else target.suffix
    return suffix if len(os.fsencode(suffix)) <= SUFFIX_CHARS else ""
