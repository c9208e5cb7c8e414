"""A million file names in a few dozen megabytes."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator


class NameList:
    """An unchanging list of file names, kept as one run of bytes: a Python string each would take three times that.

    Args:
        names: Relative paths.
    """

    def __init__(self, names: Iterable[str]) -> None:
        content, ends = bytearray(), array("q", [0])
        for name in names:
            content += os.fsencode(name)
            ends.append(len(content))
        self._content, self._ends = bytes(content), ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        """The name with this number, from 0."""
        return os.fsdecode(self._content[self._ends[index] : self._ends[index + 1]])

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def digest_parts(self) -> tuple[bytes, bytes]:
        """What a hash of the list is made of: all names, and where each ends."""
        return self._content, self._ends.tobytes()
