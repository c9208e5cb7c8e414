"""Text files that grow by whole lines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

MAX_LINE = 1 << 20
"""Bytes of a line that are read; real ones have fewer."""
NO_LINK = getattr(os, "O_NOFOLLOW", 0)
"""Flag that refuses a link, whose lines would land in another folder."""


class SharedLines:
    """A text file to which the processes of one machine append whole lines, or one process of several machines.

    A line is one system call, so lines of several writers never mix, but for NFS, and a killed writer leaves one torn
    line at most; the next begins a new one.

    Args:
        path: The file; made by the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file, self._read_to, self._opening = -1, 0, Lock()

    def append(self, line: str) -> None:
        """Write a line, its end included. Threads may do so at once."""
        with self._opening:
            if self._file < 0:
                is_torn = not ends_a_line(self.path)
                self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | NO_LINK, 0o666)
                if is_torn:
                    os.write(self._file, b"\n")
        os.write(self._file, line.encode())

    def new_lines(self) -> Iterator[str]:
        """Yield the whole lines appended since the last call."""
        if not self.path.is_file() or self.path.stat().st_size == self._read_to:
            return
        with self.path.open("rb") as content:
            content.seek(self._read_to)
            while line := content.readline(MAX_LINE):
                if not line.endswith(b"\n") and len(line) < MAX_LINE:  # still being written, or torn
                    break
                self._read_to += len(line)
                yield line.decode("utf-8", "replace")

    def skip(self) -> None:
        """Treat all lines as read."""
        self._read_to = self.path.stat().st_size if self.path.is_file() else 0

    def close(self) -> None:
        """Close the file, before it is replaced."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def ends_a_line(file: Path) -> bool:
    """Return True if a file is empty or missing, or ends with a line end."""
    if not file.is_file() or file.stat().st_size == 0:
        return True
    with file.open("rb") as content:
        content.seek(-1, os.SEEK_END)
        return content.read() == b"\n"
