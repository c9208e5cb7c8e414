"""Write tensors as a safetensors file, byte for byte as the safetensors library does.

The library writes to a temporary file of its own, with mode 0600, and its errors are no OSErrors; this writes to the
file of `atomic_path`, a tensor at a time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from medcli.runtime.files import atomic_path
from medcli.runtime.json_records import InvalidJson, parse_json

CODES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Types, in their order in a file."""
RANKS = {dtype: rank for rank, dtype in enumerate(CODES)}
ALIGNMENT = 8
MAX_HEADER = 100 * 2**20
"""The library's bound, too."""


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, is_durable: bool = False
) -> None:
    """Write tensors, replacing an older file.

    Args:
        tensors: On the CPU.
        metadata: Texts for the header.
        is_durable: See `atomic_path`.

    Raises:
        EnvironmentProblem: If the place can't be written to or is full.
    """
    names = sorted(tensors, key=lambda name: (RANKS[tensors[name].dtype], name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name in names:
        tensor = tensors[name]
        end = place + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with atomic_path(path, force=True, is_durable=is_durable) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(tensors[name].detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def has_all_bytes(path: Path) -> bool:
    """Return True if a file is as long as its header promises; its tensors are not read."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if 8 + length > min(size, MAX_HEADER):
                return False
            header = parse_json(file.read(length), MAX_HEADER)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return 8 + length + int(max(ends, default=0)) == size
    except (OSError, InvalidJson, AttributeError, TypeError, KeyError, IndexError, ValueError):
        return False
