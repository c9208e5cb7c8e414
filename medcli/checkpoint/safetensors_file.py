"""The safetensors container: a length, a JSON header, then the tensors' bytes. Nothing in a header is trusted."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medcli.checkpoint.tensor_record import ITEM_SIZES, TensorRecord, stored
from medcli.errors import CheckpointError

MAX_HEADER_BYTES = 100 * 2**20
DATA_ALIGNMENT = 64
"""The data starts at a multiple of this many bytes, so that mapped tensors are aligned."""

DAMAGED = "download or copy the file again"


def read_safetensors(path: Path) -> tuple[dict[str, TensorRecord], dict[str, str]]:
    """Read the header of a safetensors file.

    Returns:
        The tensors by name, in the order of the header, and the file's metadata.

    Raises:
        CheckpointError: If the file is cut short or its header is not what the format allows.
    """
    header, start = _read_header(path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise _damaged(path, "its metadata is not a table")
    end = path.stat().st_size
    records = {name: _record(path, name, value, start, end) for name, value in header.items()}
    return records, metadata


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else MAX_HEADER_BYTES + 1
        if length > min(size - 8, MAX_HEADER_BYTES):
            raise _damaged(path, "its header is not all there")
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise _damaged(path, "its header is not JSON") from err
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a table")
    return header, 8 + length


def _record(path: Path, name: str, value: Any, start: int, end: int) -> TensorRecord:
    match value:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(low), int(high)]} if all(
            type(n) is int and n >= 0 for n in (*shape, low, high)
        ):
            if dtype not in ITEM_SIZES:
                raise CheckpointError(
                    f"{path.name}: tensor {name} has type {dtype}, expected floating point weights",
                    hint="convert the original, unquantised checkpoint",
                )
            if high - low != math.prod(shape) * ITEM_SIZES[dtype]:
                raise _damaged(path, f"tensor {name} has {high - low} bytes, which is not {dtype} {tuple(shape)}")
            if start + high > end:
                raise _damaged(
                    path, f"it is cut short: tensor {name} reaches {start + high - end} bytes beyond the end"
                )
            return stored(name, dtype, tuple(shape), path, start + low)
    raise _damaged(path, f"tensor {name} is described in an unknown way")


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path.name} is a damaged safetensors file: {what}", hint=DAMAGED)


def build_header(records: Sequence[TensorRecord], metadata: Mapping[str, str]) -> bytes:
    """The length and header of a file that holds these tensors back to back.

    Args:
        records: In file order. Larger element types must come first, so that every tensor is aligned.
        metadata: Texts for `__metadata__`; nothing of the path or the time, so that equal contents give equal files.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for record in records:
        end = offset + record.nbytes
        header[record.name] = {"dtype": record.dtype, "shape": list(record.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % DATA_ALIGNMENT)
    return struct.pack("<Q", len(text)) + text
