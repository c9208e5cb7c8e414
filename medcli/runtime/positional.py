"""Read and write at places of open files, which several threads may do at once."""

from __future__ import annotations

import os
from threading import Lock

_SEEKING = Lock()
"""Held where the system can only move the place of a descriptor first, as on Windows."""


def read_at(descriptor: int, content: memoryview, offset: int) -> int:
    """Fill `content` from a place of a file and return the number of bytes read, fewer only at its end."""
    filled = 0
    while filled < len(content):
        if hasattr(os, "preadv"):
            count = os.preadv(descriptor, [content[filled:]], offset + filled)
        else:
            with _SEEKING:
                os.lseek(descriptor, offset + filled, os.SEEK_SET)
                piece = os.read(descriptor, len(content) - filled)
            content[filled : filled + len(piece)], count = piece, len(piece)
        if not count:
            break
        filled += count
    return filled


def write_at(descriptor: int, content: bytes | bytearray, offset: int) -> None:
    """Write all of `content` to a place of a file."""
    rest = memoryview(content)
    while rest:
        if hasattr(os, "pwrite"):
            count = os.pwrite(descriptor, rest, offset)
        else:
            with _SEEKING:
                os.lseek(descriptor, offset, os.SEEK_SET)
                count = os.write(descriptor, rest)
        rest, offset = rest[count:], offset + count
