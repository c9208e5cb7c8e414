"""Read `.npz` files without unpickling and with bounds on everything that is read."""

from __future__ import annotations

import io
import lzma
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from medcli.data.image_files import unreadable
from medcli.errors import DataError
from medcli.runtime.files import require_regular

Array = npt.NDArray[np.generic]

PIECE_BYTES = 2**20
"""Bytes read from an archive at once."""
MAX_ARRAY_BYTES = 2**29
"""Bound on an array that is read whole: covariances of 2,048 features take 32 MiB."""
MAX_HEADER_BYTES = 2**16
DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, NotImplementedError),
    *(
        RuntimeError,
        LookupError,
        SyntaxError,
        tokenize.TokenError,
        TypeError,
        AttributeError,
        ArithmeticError,
        MemoryError,
    ),
)
"""Raised by zipfile and numpy on damaged and encrypted files, beside OSError without an error number."""


def is_npz(path: Path) -> bool:
    """Return True if a regular file is a zip archive, whatever its name."""
    require_regular(path)
    try:
        return path.is_file() and zipfile.is_zipfile(path)
    except OSError as err:
        raise unreadable(path, err) from err


def npz_keys(path: Path) -> frozenset[str]:
    """Return the names of the arrays of an npz file.

    Raises:
        DataError: If the file is not a whole npz file.
        EnvironmentProblem: If it can't be read.
    """
    with _opened(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        if len(set(names)) < len(names):
            repeated = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{path} holds the array {repeated} twice", hint="write it again with numpy.savez")
        return frozenset(names)


def read_array(path: Path, key: str) -> Array:
    """Load one array whole; object arrays are refused.

    Raises:
        DataError: If the file is damaged, or the array is too large or needs pickled objects.
        EnvironmentProblem: If it can't be read.
    """
    with opened_array(path, key) as (header, member):
        if header.num_bytes > MAX_ARRAY_BYTES:
            raise DataError(
                f"{path}: {key} takes {header.num_bytes:,} bytes, more than {MAX_ARRAY_BYTES:,}",
                hint="check which array is stored under this name",
            )
        return header.array(b"".join(pieces(member, header.num_bytes)))


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayHeader:
    """Type and layout of a stored array."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[np.generic]

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def array(self, content: bytes) -> Array:
        """Build the whole array from its bytes."""
        return np.frombuffer(content, self.dtype).reshape(self.shape, order="F" if self.is_fortran else "C")


def _header(member: IO[bytes], num_bytes: int, name: str) -> ArrayHeader:
    """Read the header of a stored array, and check it against the bytes that are stored."""
    start = member.read(8)
    if len(start) != 8 or start[:6] != np.lib.format.MAGIC_PREFIX or start[6] not in (1, 2, 3):
        raise ValueError("not a numpy array")
    size = member.read(2 if start[6] == 1 else 4)
    length = int.from_bytes(size, "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError("the header is too long")
    text = io.BytesIO(size + member.read(length))
    read = np.lib.format.read_array_header_1_0 if start[6] == 1 else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(text)
    header = ArrayHeader(shape=tuple(map(int, shape)), is_fortran=is_fortran, dtype=dtype)
    if dtype.hasobject:
        raise DataError(f"{name} has dtype object: pickled objects are never read", hint="save plain arrays of numbers")
    if min(shape, default=0) < 0 or header.num_bytes != num_bytes - 8 - len(size) - length:
        raise ValueError("the array does not fill its member")
    return header


def pieces(member: IO[bytes], num_bytes: int) -> Iterator[bytes]:
    """Read a number of bytes in pieces; checksums are verified at the end of the member."""
    while num_bytes:
        piece = member.read(min(PIECE_BYTES, num_bytes))
        if not piece:
            raise EOFError
        num_bytes -= len(piece)
        yield piece


@contextmanager
def _translated(path: Path, kind: str) -> Iterator[None]:
    """Translate what is raised while an archive or array is read."""
    require_regular(path)
    try:
        yield
    except OSError as err:
        if err.errno is not None:
            raise unreadable(path, err) from err
        raise _damaged(path, kind) from err
    except DAMAGE as err:
        if "encrypted" in str(err):
            raise DataError(f"{path} is encrypted", hint="write it again without a password") from err
        raise _damaged(path, kind) from err


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with _translated(path, ".npz"), zipfile.ZipFile(path) as archive:
        yield archive


@contextmanager
def opened_array(path: Path, key: str) -> Iterator[tuple[ArrayHeader, IO[bytes]]]:
    """Open an array of an npz file, after its header. Objects are refused.

    Raises:
        DataError: If the file is damaged, or the array needs pickled objects; also while it is read.
        EnvironmentProblem: If the file can't be read.
    """
    with _opened(path) as archive, archive.open(f"{key}.npy") as member:
        yield _header(member, archive.getinfo(f"{key}.npy").file_size, f"{path}: {key}"), member


def read_npy(path: Path) -> Array:
    """Load an array of an npy file; object arrays are refused.

    Raises:
        DataError: If the file is damaged, or the array needs pickled objects.
        EnvironmentProblem: If the file can't be read.
    """
    with _translated(path, ".npy"), path.open("rb") as file:
        if file.read(2) == b"PK":
            raise DataError(f"{path} is an .npz, expected one array", hint="save it with numpy.save")
        file.seek(0)
        header = _header(file, os.fstat(file.fileno()).st_size, str(path))
        return header.array(file.read(header.num_bytes)).copy()


def _damaged(path: Path, kind: str) -> DataError:
    return DataError(
        f"{path} is not a whole {kind} file", hint="copy or write it again; numpy.load must be able to read it"
    )
