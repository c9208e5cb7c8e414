"""Build a model from tensor records without random initialisation; contiguous tensors are mapped, not copied."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from medcli.checkpoint.safetensors_file import DATA_ALIGNMENT
from medcli.checkpoint.stream import CHUNK_BYTES
from medcli.checkpoint.tensor_record import ITEM_SIZES, Region, TensorRecord
from medcli.checkpoint.value_check import Checksum, ValueCheck
from medcli.config import ModelConfig

if TYPE_CHECKING:
    import torch

    from medcli.model.amm import Amm
    from medcli.model.backbone import DiffusionTransformer


def build_model(
    config: ModelConfig,
    records: Mapping[str, TensorRecord],
    source: str,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    amm: Amm | None = None,
) -> DiffusionTransformer:
    """Build a model around tensors in files.

    Args:
        records: All of its tensors.
        source: Name of the checkpoint for error messages.
        dtype: Parameter type; None keeps the file's.
        amm: Attention modulation; None leaves attention alone.

    Returns:
        The model in evaluation mode. On a CPU, with the file's own type, its parameters are a private mapping of the
        file: loaded when touched, and writing to them changes memory only.

    Raises:
        CheckpointError: If a weight is NaN or infinite, a trained matrix is zero, or a checksum does not fit.
        ConfigError: If modulation does not fit the model.
    """
    from medcli.model.amm import attach_amm, check_amm
    from medcli.model.backbone import empty_model

    if amm is not None:
        check_amm(amm, config)
    model = empty_model(config)
    model.load_state_dict(load_tensors(records, source), assign=True)
    model.to(device=device, dtype=dtype)
    if amm is not None:
        attach_amm(model, amm)
    return model


def load_tensors(records: Mapping[str, TensorRecord], source: str) -> dict[str, torch.Tensor]:
    """Load tensors, mapped where a record is one region of a file.

    Args:
        records: Floating point tensors by name.
        source: What to call their file in errors.

    Raises:
        CheckpointError: If a weight is NaN or infinite, a trained matrix is zero, or a checksum does not fit.
    """
    maps: dict[Path, mmap.mmap] = {}
    return {name: _load_one(record, maps, source) for name, record in records.items()}


def _load_one(record: TensorRecord, maps: dict[Path, mmap.mmap], source: str) -> torch.Tensor:
    import torch

    types = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    piece = record.pieces[0] if len(record.pieces) == 1 else None
    if isinstance(piece, Region) and piece.offset % ITEM_SIZES[record.dtype] == 0:
        buffer: mmap.mmap | bytearray = _mapped(piece.path, maps)
        offset = piece.offset
    else:
        buffer, offset = bytearray(record.read()), 0
    view = memoryview(buffer)[offset : offset + record.nbytes]
    check, checksum = ValueCheck(record, source), Checksum(source)
    for part in record.pieces:
        for start in range(0, part.nbytes, CHUNK_BYTES):
            chunk = view[start : min(start + CHUNK_BYTES, part.nbytes)]
            check.take(chunk)
            checksum.take(chunk, part, record.name)
        view = view[part.nbytes :]
    check.finish()
    flat = torch.frombuffer(buffer, dtype=types[record.dtype], count=record.num_elements, offset=offset)
    tensor = flat.reshape(record.shape)
    # Kernels round differently by where memory begins: equal weights must give equal bits, whatever file they lie in.
    return tensor if tensor.data_ptr() % DATA_ALIGNMENT == 0 else tensor.clone()


def _mapped(path: Path, maps: dict[Path, mmap.mmap]) -> mmap.mmap:
    if path not in maps:
        with path.open("rb") as file:
            # A private writable mapping: torch wants memory it may write to, and training may write to it.
            maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return maps[path]
