"""Open a checkpoint of any layout: what it is, and its tensors as places in files. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from medcli.checkpoint import lightningdit
from medcli.checkpoint.check import check_content
from medcli.checkpoint.infer import ONLY_CLASSES, Hints, infer_config
from medcli.checkpoint.layouts import RawCheckpoint, open_raw
from medcli.checkpoint.lightningdit import BATCH_NORM, ROTARY, check_rotary, sampling_remark, with_settings
from medcli.checkpoint.repa import as_sit
from medcli.checkpoint.tensor_record import TensorRecord, computed
from medcli.checkpoint.training_args import AUTOENCODERS, kept_args, named_family, sampling_args
from medcli.config import SD_AUTOENCODER, SD_CHANNELS, ModelConfig
from medcli.model.layout import num_params, position_tables, tensor_shapes
from medcli.presets import heads_for_width, preset_of


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointInfo:
    """Description of a checkpoint."""

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
    """Default sampler and schedule values of the file; empty if none."""
    unknown_sampling: Mapping[str, Any] = field(default_factory=dict)
    """Values of such settings that medcli does not know; a flag must replace them."""
    reference: str | None
    """Bundled reference set its samples are scored against."""
    training: Mapping[str, Any]
    """Training settings and history, as far as the file tells."""
    autoencoder_folder: Path | None = None
    """The autoencoder of a pipeline folder."""
    class_names: tuple[str, ...] = ()
    """Name of each class; empty if they have none."""
    left_out: tuple[str, ...] = ()
    """Names of tensors that serve training alone."""
    rewritten: tuple[str, ...] = ()
    """Names of tensors with other numbers than the file's."""
    remarks: tuple[str, ...] = ()
    """Facts that the user should know, such as what was left out."""
    knows_stride: bool = True
    """False: the stride of the latents is unknown, and `config` assumes 8."""

    @property
    def knows_latents(self) -> bool:
        """True if the file says how its latents were scaled."""
        is_ours = self.layout == "medcli" and self.knows_stride
        return is_ours or "latent_norm" in self.training.get("args", {})

    @property
    def lacks_statistics(self) -> bool:
        """True if the latents were normalised by missing statistics."""
        args = self.training.get("args")
        return isinstance(args, Mapping) and args.get("latent_norm") is True and not self.config.latent_mean


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
    raw, hints = open_raw(Path(path)), hints or Hints()
    chosen, held = raw.pick(weights)
    shapes = {name: record.shape for name, record in held.items()}
    raw, tensors = as_sit(with_settings(raw, shapes, hints.family), held, hints.family)
    if raw.sampling or hints.family == lightningdit.FAMILY:
        hints = replace(hints, family="sit")
    config = infer_config(raw, tensors, hints)
    check_rotary(tensors, config, raw.path.name)
    tensors = {name: record for name, record in tensors.items() if not name.startswith((ROTARY, BATCH_NORM))}
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
        name: computed(name, dtype, (1, side**2, width), partial(_table, width, side, config.position_scale))
        for name, (width, side) in position_tables(config).items()
    }


def _table(width: int, side: int, scale: float) -> Any:
    from medcli.model.grid_tables import position_table

    return position_table(width, side, scale)[None]


def _info(raw: RawCheckpoint, weights: str, config: ModelConfig, records: Mapping[str, TensorRecord]) -> CheckpointInfo:
    header = raw.header
    training = dict(header.training) if header else {"args": kept} if (kept := kept_args(raw.args)) else {}
    args = training.get("args")
    known, unknown = sampling_args(args) if config.family == "sit" and isinstance(args, Mapping) else ({}, {})
    sampling = dict(header.sampling) if header else {**known, **raw.sampling}
    return CheckpointInfo(
        path=raw.path,
        layout=raw.layout,
        config=config,
        weights=weights,
        weights_available=tuple(raw.sets),
        preset=preset_of(config),
        num_params=num_params(config),
        dtype=main_dtype(records),
        sampling=sampling,
        unknown_sampling={name: value for name, value in unknown.items() if name not in sampling},
        reference=header.reference if header else None,
        training=training,
        autoencoder_folder=raw.autoencoder_folder,
        class_names=header.class_names if header else raw.class_names,
        left_out=raw.left_out,
        rewritten=raw.rewritten,
        remarks=(*raw.remarks, *_contradictions(raw, config)),
        knows_stride=_knows_stride(raw, config),
    )


def _knows_stride(raw: RawCheckpoint, config: ModelConfig) -> bool:
    """Return whether the stride is more than the usual one of other channels than the file's."""
    if raw.header is not None:
        return raw.header.knows_stride
    is_usual = (config.autoencoder, config.latent_downsample) == (SD_AUTOENCODER, 8)
    return not is_usual or config.in_channels == SD_CHANNELS or bool({"image_size", "resolution"} & set(raw.args))


def _contradictions(raw: RawCheckpoint, config: ModelConfig) -> list[str]:
    """Return remarks on training settings that do not fit the tensors, or are not known."""
    remarks = []
    model = raw.args.get("model")
    if named_family(model) not in (None, config.family):
        remarks.append(f"its training settings name the model {str(model)[:60]}, it is read as a {config.family}")
    usual = heads_for_width(config.hidden_size)
    if raw.header is None and not config.stage_heads and usual not in (None, config.num_heads):
        remarks.append(f"it is read with {config.num_heads} heads; presets of its width have {usual}")
    for name in ("image_size", "resolution"):
        side = raw.args.get(name)
        if type(side) is int and side != config.resolution_px:
            remarks.append(f"its training settings name {side} px, its tensors are of {config.resolution_px} px")
    vae = raw.args.get("vae")
    if isinstance(vae, str) and config.autoencoder is not None and vae not in (*AUTOENCODERS, config.autoencoder):
        remarks.append(f"its training settings name the autoencoder {vae[:100]}; --vae selects it")
    if config.family == "sit" and (unknown := sampling_args(raw.args)[1]):
        names = ", ".join(f"{name} {str(value)[:60]!r}" for name, value in unknown.items())
        remarks.append(f"its training settings name {names}, which medcli does not know")
    if config.num_classes == ONLY_CLASSES and not config.has_null_class and "num_classes" not in raw.args:
        remarks.append(f"its {ONLY_CLASSES} label rows are taken for as many classes without a null class")
    if not _knows_stride(raw, config):
        remarks.append(
            f"the stride of its {config.in_channels}-channel latents is unknown: 8 is assumed, --vae decides"
        )
    if words := sampling_remark(raw.args):
        remarks.append(words)
    return remarks[:3]
