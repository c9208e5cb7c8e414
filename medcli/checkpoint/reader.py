"""Open a checkpoint of any layout: what it is, and its tensors as places in files. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medcli.checkpoint.check import check_content
from medcli.checkpoint.infer import Hints, infer_config
from medcli.checkpoint.layouts import RawCheckpoint, open_raw
from medcli.checkpoint.tensor_record import TensorRecord, computed
from medcli.config import ModelConfig
from medcli.model.layout import num_params, position_tables, tensor_shapes
from medcli.presets import preset_of


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointInfo:
    """What a checkpoint is."""

    path: Path
    layout: str
    """`official` (a bare state dict), `training`, `diffusers` or `medcli`."""
    config: ModelConfig
    weights: str
    """The set that is read: `ema` or `model`."""
    weights_available: tuple[str, ...]
    """All sets in the file."""
    preset: str | None
    """Named size, such as `SiT-XL/2`; None if it is none."""
    num_params: int
    dtype: str
    """Element type of the weights in safetensors' spelling, `F32`; the attention projection's where they differ."""
    sampling: Mapping[str, Any]
    """Default sampler and schedule values the file carries; empty if none."""
    reference: str | None
    """Bundled reference set its samples are scored against."""
    training: Mapping[str, Any]
    """How it was trained, if the file says; settings of the training run otherwise."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An open checkpoint: its description and every tensor of its model, in file order."""

    info: CheckpointInfo
    records: Mapping[str, TensorRecord]
    made: tuple[str, ...]
    """Tensors the file lacks and the configuration fixes: position tables are the only ones."""


def open_checkpoint(
    path: str | os.PathLike[str], *, hints: Hints | None = None, weights: str | None = "ema"
) -> Checkpoint:
    """Recognise a checkpoint and check that it holds all of its model; no weights are read.

    Args:
        path: A file or a diffusers folder.
        hints: What the user says where the file can't tell.
        weights: `ema` or `model`; a file with one unnamed set gives that one; None takes the averaged if there are any.

    Raises:
        CheckpointError: If it is missing, damaged, ambiguous or not a model of these families.
    """
    raw = open_raw(Path(path))
    chosen, tensors = raw.pick(weights)
    config = infer_config(raw, tensors, hints or Hints())
    check_content(tensors, config, raw.path.name)
    positions = position_records(config, main_dtype(tensors))
    records = {name: tensors[name] if name in tensors else positions[name] for name in tensor_shapes(config)}
    made = tuple(name for name in records if name not in tensors)
    return Checkpoint(_info(raw, chosen, config, records), records, made)


def describe(
    path: str | os.PathLike[str],
    *,
    family: str | None = None,
    num_heads: int | None = None,
    weights: str | None = "ema",
) -> CheckpointInfo:
    """Say what a checkpoint is, without building it or reading its weights.

    Args:
        path: A file or a diffusers folder.
        family: `dit` or `sit`, where neither the file's contents nor its name tells.
        num_heads: Attention heads, where the width is not a preset's.
        weights: `ema` or `model`, for training checkpoints that hold both; None takes the averaged if there are any.

    Raises:
        CheckpointError: If it is missing, damaged, ambiguous or not a model of these families.
    """
    return open_checkpoint(path, hints=Hints(family=family, num_heads=num_heads), weights=weights).info


def main_dtype(records: Mapping[str, TensorRecord]) -> str:
    """Element type new tensors of a model take: that of its first attention projection."""
    return next(record.dtype for name, record in records.items() if name.endswith(".attn.qkv.weight"))


def position_records(config: ModelConfig, dtype: str) -> dict[str, TensorRecord]:
    """The fixed position tables of a model by name, computed when they are written."""
    return {
        name: computed(name, dtype, (1, side**2, width), partial(_table, width, side))
        for name, (width, side) in position_tables(config).items()
    }


def _table(width: int, side: int) -> Any:
    from medcli.model.layout import position_table

    return position_table(width, side)[None]


def _info(raw: RawCheckpoint, weights: str, config: ModelConfig, records: Mapping[str, TensorRecord]) -> CheckpointInfo:
    return CheckpointInfo(
        path=raw.path,
        layout=raw.layout,
        config=config,
        weights=weights,
        weights_available=tuple(raw.sets),
        preset=preset_of(config),
        num_params=num_params(config),
        dtype=main_dtype(records),
        sampling=raw.header.sampling if raw.header else {},
        reference=raw.header.reference if raw.header else None,
        training=raw.header.training if raw.header else {},
    )
