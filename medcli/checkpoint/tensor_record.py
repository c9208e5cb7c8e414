"""Tensor records: name, type, shape and the source of a tensor's bytes; readers make them, writers consume them.

Bytes are read only on request, and torch is not imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from medcli.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# safetensors' names for element types, with the bytes of one element.
ITEM_SIZES: dict[str, int] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class Region:
    """Byte range of a file, checked by the reader to lie inside it."""

    path: Path
    offset: int
    nbytes: int
    crc32: int | None = None
    """Checksum of these bytes, where the file has one."""


@dataclass(frozen=True, slots=True)
class Made:
    """Bytes that are computed on request."""

    nbytes: int
    make: Callable[[], bytes]


Piece = Region | Made


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """One tensor of a state dict, row-major; its bytes are those of the pieces in order."""

    name: str
    dtype: str
    """A key of `ITEM_SIZES`."""
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def num_elements(self) -> int:
        """Product of the shape."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the tensor in bytes."""
        return self.num_elements * ITEM_SIZES[self.dtype]

    def renamed(self, name: str) -> TensorRecord:
        """Return the same tensor under another name."""
        return replace(self, name=name)

    def read(self) -> bytes:
        """Read all bytes at once; for small tensors."""
        return b"".join(read_piece(piece) for piece in self.pieces)


def stored(name: str, dtype: str, shape: tuple[int, ...], path: Path, offset: int) -> TensorRecord:
    """Return the record of a contiguous tensor in a file."""
    nbytes = math.prod(shape) * ITEM_SIZES[dtype]
    return TensorRecord(name, dtype, shape, (Region(path, offset, nbytes),))


def zeros(name: str, dtype: str, shape: tuple[int, ...]) -> TensorRecord:
    """Return the record of a tensor of zeros."""
    nbytes = math.prod(shape) * ITEM_SIZES[dtype]
    return TensorRecord(name, dtype, shape, (Made(nbytes, lambda: bytes(nbytes)),))


def computed(name: str, dtype: str, shape: tuple[int, ...], make: Callable[[], NDArray[np.number]]) -> TensorRecord:
    """Return the record of a tensor that is computed when it is read, rounded to `dtype`."""
    nbytes = math.prod(shape) * ITEM_SIZES[dtype]
    return TensorRecord(name, dtype, shape, (Made(nbytes, lambda: to_bytes(make(), dtype)),))


def row_slice(record: TensorRecord, name: str, start: int, stop: int) -> TensorRecord:
    """Return rows `start..stop-1` along the first axis without reading them."""
    row = record.nbytes // record.shape[0]
    pieces = tuple(_cut(record.pieces, start * row, stop * row))
    return TensorRecord(name, record.dtype, (stop - start, *record.shape[1:]), pieces)


def row_concat(name: str, records: list[TensorRecord]) -> TensorRecord:
    """Concatenate tensors along the first axis without reading them.

    Raises:
        CheckpointError: If their types or their other axes differ.
    """
    first = records[0]
    for record in records[1:]:
        if record.dtype != first.dtype or record.shape[1:] != first.shape[1:]:
            raise CheckpointError(
                f"{first.name} is {describe_tensor(first)} but {record.name} is {describe_tensor(record)}",
                hint="the file is damaged; get it again",
            )
    shape = (sum(record.shape[0] for record in records), *first.shape[1:])
    return TensorRecord(name, first.dtype, shape, tuple(piece for record in records for piece in record.pieces))


def describe_tensor(record: TensorRecord) -> str:
    """Format type and shape for a message: `F32 (16, 4)`."""
    return f"{record.dtype} {record.shape}"


def _cut(pieces: tuple[Piece, ...], start: int, stop: int) -> Iterator[Piece]:
    """Yield pieces for the bytes `start..stop-1` of a sequence of pieces."""
    begin = 0
    for piece in pieces:
        low, high = max(start - begin, 0), min(stop - begin, piece.nbytes)
        if low < high:
            yield _cut_one(piece, low, high)
        begin += piece.nbytes


def _cut_one(piece: Piece, low: int, high: int) -> Piece:
    if isinstance(piece, Region):
        return Region(piece.path, piece.offset + low, high - low)
    return Made(high - low, lambda: piece.make()[low:high])


def read_piece(piece: Piece) -> bytes:
    """Read the bytes of one piece.

    Raises:
        CheckpointError: If the file became shorter since it was checked.
    """
    if isinstance(piece, Made):
        return piece.make()
    with piece.path.open("rb") as file:
        return read_region(file, piece)


def read_region(file: BinaryIO, region: Region) -> bytes:
    """Read a region of an open file.

    Raises:
        CheckpointError: If the file became shorter since it was checked.
    """
    file.seek(region.offset)
    data = file.read(region.nbytes)
    if len(data) != region.nbytes:
        raise CheckpointError(f"{region.path} became shorter while it was read", hint="run the command again")
    return data


def to_bytes(values: NDArray[np.number], dtype: str) -> bytes:
    """Convert numbers to bytes of a type: rounded, row-major, little endian."""
    import numpy as np

    if dtype == "BF16":
        # bfloat16 is the upper half of float32; adding just under half of a unit first rounds to nearest, ties to even.
        bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    kind = "f" if dtype in FLOAT_DTYPES else "i"
    with np.errstate(over="ignore"):  # infinite weights are refused when they are written
        return np.ascontiguousarray(values, dtype=f"<{kind}{ITEM_SIZES[dtype]}").tobytes()


def from_bytes(data: bytes, dtype: str, shape: tuple[int, ...]) -> NDArray[np.floating]:
    """Convert bytes to numbers: float64 for F64, float32 for the other float types."""
    import numpy as np

    if dtype == "BF16":
        upper = np.frombuffer(data, dtype="<u2").astype("<u4") << 16
        return upper.view("<f4").reshape(shape)
    values = np.frombuffer(data, dtype=f"<f{ITEM_SIZES[dtype]}").reshape(shape)
    return values if dtype == "F64" else values.astype(np.float32)
