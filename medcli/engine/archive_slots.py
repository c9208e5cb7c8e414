"""`samples.npz`, filled by all processes of a run at once: each image has its place in one file of the whole size.

While images are made the file is `.samples-N.part`, beside it `.samples-N.crc` with a checksum of each image's pixels.
At the end one process reads the file once: a place without its pixels, as after a kill, is filled from the picture.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt

from medcli.errors import ConfigError
from medcli.runtime.files import translated
from medcli.runtime.positional import read_at, write_at

# Dimension key: Y X height and width.

FIXED_DATE = (1980, 1, 1, 0, 0, 0)
"""Time stamp in the archive: equal images make equal files."""
MEMBER = "arr_0.npy"
CRC_BYTES = 4
NUM_READERS, BLOCK = 8, 64
"""Threads that check and decode images, and images they are given at a time."""
BEGINNING = ".samples-"

Pixels = npt.NDArray[np.uint8]


class ArchiveSlots:
    """The place of each image in an unfinished archive. Threads and processes may fill places at once.

    Args:
        num_images: Images of the archive.
        side_px: Side of an image.
    """

    def __init__(self, folder: Path, num_images: int, side_px: int) -> None:
        self._num_images, self._shape_YXC = num_images, (side_px, side_px, 3)
        self._image_bytes = 3 * side_px**2
        self._part, self._sums = (folder / f"{BEGINNING}{num_images}.{kind}" for kind in ("part", "crc"))
        self._files: tuple[int, int] | None = None
        self._opening = Lock()
        self._head = _head(num_images, side_px)

    def put(self, index: int, pixels_YXC: Pixels) -> None:
        """Write the pixels of an image to its place, then their checksum.

        Raises:
            ConfigError: If something else has the name of the unfinished file.
            EnvironmentProblem: If the disk is full.
        """
        if index < self._num_images:
            content = np.ascontiguousarray(pixels_YXC).tobytes()
            with translated(self._part):
                part, sums = self._opened()
                write_at(part, content, self._offset(index))
                write_at(sums, zlib.crc32(content).to_bytes(CRC_BYTES, "little"), CRC_BYTES * index)

    def finish(self, target: Path, indices: Sequence[int], read: Callable[[int], Pixels]) -> None:
        """Fill the places that lack their pixels, and give the file its name.

        Args:
            target: The archive.
            indices: The images, as many as the archive has, rising.
            read: Reads the picture of an image; called from several threads.

        Raises:
            DataError: If a picture is damaged.
            EnvironmentProblem: If the disk is full.
        """
        with translated(target):
            part, sums = self._opened()
            table = np.frombuffer(_read(sums, CRC_BYTES * self._num_images, 0), "<u4")

            def content_of(place: int) -> bytes | bytearray:
                content: bytes | bytearray = _read(part, self._image_bytes, self._offset(place))
                if indices[place] != place or zlib.crc32(content) != table[place]:
                    content = read(indices[place]).tobytes()
                    write_at(part, content, self._offset(place))
                return content

            member_crc = zlib.crc32(self._head)
            for content in _in_blocks(content_of, self._num_images):
                member_crc = zlib.crc32(content, member_crc)
            self._write_zip(part, member_crc)
            os.fsync(part)
            self.close()
            os.replace(self._part, target)
        remove_slots(target.parent)

    def close(self) -> None:
        """Close the files."""
        with self._opening:
            for descriptor in self._files or ():
                os.close(descriptor)
            self._files = None

    def _offset(self, place: int) -> int:
        return self._start + self._image_bytes * place

    @property
    def _start(self) -> int:
        """Place of the first pixel."""
        return len(_entry(self._head, self._num_images * self._image_bytes, 0).FileHeader(zip64=True)) + len(self._head)

    def _opened(self) -> tuple[int, int]:
        with self._opening:
            if self._files is None:
                sizes = self._offset(self._num_images), CRC_BYTES * self._num_images
                part, sums = (_sized(path, size) for path, size in zip((self._part, self._sums), sizes, strict=True))
                self._files = part, sums
            return self._files

    def _write_zip(self, part: int, member_crc: int) -> None:
        """Write the zip's headers around the pixels."""
        entry = _entry(self._head, self._num_images * self._image_bytes, member_crc)
        write_at(part, entry.FileHeader(zip64=True) + self._head, 0)
        end = self._offset(self._num_images)
        os.ftruncate(part, end)
        write_at(part, _directory(entry, end), end)


def remove_slots(folder: Path) -> None:
    """Remove unfinished archives of a folder."""
    for path in folder.glob(f"{BEGINNING}*"):
        if is_slots(path.name):
            path.unlink(missing_ok=True)


def is_slots(name: str) -> bool:
    """Return True for the name of a file of an unfinished archive."""
    middle, _, kind = name.removeprefix(BEGINNING).partition(".")
    return name.startswith(BEGINNING) and middle.isascii() and middle.isdecimal() and kind in ("part", "crc")


def _in_blocks(make: Callable[[int], bytes | bytearray], number: int) -> Iterator[bytes | bytearray]:
    """Yield values in order, made in threads, a bounded number at a time."""
    with ThreadPoolExecutor(NUM_READERS) as threads:
        for start in range(0, number, BLOCK):
            yield from threads.map(make, range(start, min(start + BLOCK, number)))


def _head(num_images: int, side_px: int) -> bytes:
    """Return the header of the array in the archive."""
    head = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (num_images, side_px, side_px, 3)}
    np.lib.format.write_array_header_1_0(head, header)
    return head.getvalue()


def _entry(head: bytes, pixel_bytes: int, crc: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(MEMBER, date_time=FIXED_DATE)
    entry.CRC, entry.file_size = crc, len(head) + pixel_bytes
    entry.compress_size, entry.header_offset = entry.file_size, 0
    entry.external_attr = 0o600 << 16  # as `ZipFile.open` sets it
    return entry


def _directory(entry: zipfile.ZipInfo, end: int) -> bytes:
    """Return the central directory of a zip with one member that ends at `end`."""
    written = _After(end)
    with zipfile.ZipFile(written, "w") as archive:
        archive.infolist().append(entry)  # the archive's own list, which it writes when it is closed
    return written.getvalue()


class _After(io.BytesIO):
    """End of a file, from `start` on, in memory."""

    def __init__(self, start: int) -> None:
        super().__init__()
        self._start = start

    def tell(self) -> int:
        return self._start + super().tell()

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        return super().seek(max(0, place - self._start) if whence == os.SEEK_SET else place, whence) + self._start


def _sized(path: Path, num_bytes: int) -> int:
    """Open a file of at least this size, made if it is missing; its blocks are allocated when they are written."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ConfigError(f"{path} is in the way of an unfinished archive", hint="remove it")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    if os.fstat(descriptor).st_size < num_bytes:
        os.ftruncate(descriptor, num_bytes)
    return descriptor


def _read(descriptor: int, num_bytes: int, offset: int) -> bytearray:
    content = bytearray(num_bytes)
    read_at(descriptor, memoryview(content), offset)
    return content
