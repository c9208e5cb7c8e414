"""The safetensors container: a length, a JSON header, then the tensors' bytes. Headers are untrusted input."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medcli.checkpoint.tensor_record import ITEM_SIZES, Region, TensorRecord, stored
from medcli.errors import CheckpointError
from medcli.runtime.json_records import InvalidJson, parse_json

MAX_HEADER_BYTES = 16 * 2**20
"""The format allows 100 MB; an XL's header has 40 KB, and as Python objects it takes some twenty times more."""
DATA_ALIGNMENT = 64
"""The data starts at a multiple of this many bytes, so that mapped tensors are aligned."""

DAMAGED = "download or copy the file again"


def read_safetensors(path: Path) -> tuple[dict[str, TensorRecord], dict[str, str]]:
    """Read the header of a safetensors file, by the rules of the format.

    Returns:
        The tensors by name, in the order of the header, and the file's metadata.

    Raises:
        CheckpointError: If the file is cut short, longer than its tensors, or its header breaks a rule.
    """
    header, start = _read_header(path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _damaged(path, "its metadata is not a table of texts")
    records = {name: _record(path, name, value, start) for name, value in header.items()}
    _require_contiguous(path, records, start)
    return records, metadata


def _require_contiguous(path: Path, records: Mapping[str, TensorRecord], start: int) -> None:
    """Refuse gaps and overlaps between tensors, and a file that ends before or after the last of them."""
    place = start
    regions = [(record.pieces[0], name) for name, record in records.items() if isinstance(record.pieces[0], Region)]
    for region, name in sorted(regions, key=lambda found: (found[0].offset, found[0].nbytes)):
        if region.offset != place:
            between = "leaves a gap" if region.offset > place else "overlaps another"
            raise _damaged(path, f"tensor {name} {between}")
        place += region.nbytes
    size = path.stat().st_size
    if place > size:
        raise _damaged(path, f"it is cut short: {place - size} bytes are missing at the end")
    if place < size:
        raise _damaged(path, f"{size - place} bytes follow its last tensor")


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else MAX_HEADER_BYTES + 1
        if length > min(size - 8, MAX_HEADER_BYTES):
            raise _damaged(path, "its header is not all there")
        text = file.read(length)
    try:
        header = parse_json(text)
    except InvalidJson as err:
        raise _damaged(path, f"its header is not JSON of this format: {err}") from err
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a table")
    return header, 8 + length


def _record(path: Path, name: str, value: Any, start: int) -> TensorRecord:
    match value:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(low), int(high)]} if all(
            type(n) is int and 0 <= n < 2**62 for n in (*shape, low, high)
        ):
            if dtype not in ITEM_SIZES:
                raise CheckpointError(
                    f"{path.name}: tensor {name} has type {dtype}, expected floating point weights",
                    hint="convert the original, unquantised checkpoint",
                )
            if high - low != math.prod(shape) * ITEM_SIZES[dtype]:
                raise _damaged(path, f"tensor {name} has {high - low} bytes, which is not {dtype} {tuple(shape)}")
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
