"""Infer the architecture of a checkpoint from names and shapes; ask for a flag where those can't tell.

Source: reference-facts 1.2 and 3.1, edt-facts 1.7.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from medcli.checkpoint.check import refuse_first_mdt, refuse_reg
from medcli.checkpoint.families import MARKS, first_block, marked_family, marked_settings
from medcli.checkpoint.keymap import block_of, table_of
from medcli.checkpoint.layouts import RawCheckpoint
from medcli.checkpoint.lightningdit import (
    batch_norm_statistics,
    head_width,
    is_lightningdit,
    latent_fields,
    parts_of,
)
from medcli.checkpoint.tensor_record import TensorRecord
from medcli.checkpoint.training_args import AUTOENCODERS, named_family
from medcli.config import SD_CHANNELS, Family, ModelConfig
from medcli.errors import CheckpointError, ConfigError
from medcli.model.part_kinds import first_layer, mlp_of
from medcli.presets import heads_for_width, preset_config

ONLY_CLASSES = 1000
"""Rows of a label table that are ImageNet's classes without a null class, as a model trained without dropout has."""
MAX_STRIDE = 64
"""Image pixels of a latent pixel, of any autoencoder."""
PIXEL_CHANNELS = (1, 3)
"""Input channels of grey or colour pixels; latents have 4 or more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hints:
    """Values the user gives for a checkpoint that does not tell them; None: infer."""

    family: str | None = None
    num_heads: int | tuple[int, ...] | None = None
    """Heads of all blocks, or of each stage."""
    num_classes: int | None = None
    resolution_px: int | None = None


def infer_config(raw: RawCheckpoint, tensors: Mapping[str, TensorRecord], hints: Hints) -> ModelConfig:
    """Work out the architecture.

    Args:
        raw: Where the tensors come from.
        tensors: One weight set, under upstream's names.
        hints: Used where the file does not say.

    Raises:
        CheckpointError: If the tensors are of no model we know, or a hint is needed.
    """
    if raw.header is not None:
        config = raw.header.config
        if config.depth > len(tensors):  # before anything is listed for each block
            raise CheckpointError(
                f"{raw.path.name} is said to have {config.depth} blocks but has {len(tensors)} tensors",
                hint="convert the original again",
            )
        return _agreed(config, hints, raw.path.name)
    shapes = {name: record.shape for name, record in tensors.items()}
    _require_known(raw, shapes)
    family = _family(raw, shapes, hints)
    try:
        return _config(raw, tensors, hints, family)
    except ConfigError as err:
        raise CheckpointError(f"{raw.path.name} describes an impossible model: {err.message}", hint=err.hint) from err


def _agreed(config: ModelConfig, hints: Hints, source: str) -> ModelConfig:
    """Our own files know; a hint that says otherwise is a mistake."""
    if hints.family not in (None, config.family):
        raise CheckpointError(f"{source} is of family {config.family}, not {hints.family}", hint="leave --family out")
    _agree_on_heads(hints.num_heads, config.stage_heads or config.num_heads, source)
    return config


def _agree_on_heads(asked: int | tuple[int, ...] | None, held: int | tuple[int, ...], source: str) -> None:
    """Refuse a hint that contradicts what the file knows.

    Raises:
        CheckpointError: If it does.
    """
    if asked not in (None, held):
        raise CheckpointError(f"{source} has {held} heads, not {asked}", hint="leave --heads out")


def _config(raw: RawCheckpoint, tensors: Mapping[str, TensorRecord], hints: Hints, family: Family) -> ModelConfig:
    source, shapes = raw.path.name, {name: record.shape for name, record in tensors.items()}
    first = first_block(family)
    width, in_channels, patch, _ = _shape(shapes, "x_embedder.proj.weight", 4, source)
    rows = _shape(shapes, "y_embedder.embedding_table.weight", 2, source)[0]
    qkv_rows = _shape(shapes, f"{first}.attn.qkv.weight", 2, source)[0]
    parts = parts_of(shapes)
    layer, rows_each = first_layer(mlp_of(shapes, f"{first}.mlp"))
    mlp_size = _shape(shapes, f"{first}.mlp.{layer}.weight", 2, source)[0] // rows_each
    final_rows = _shape(shapes, "final_layer.linear.weight", 2, source)[0]
    ladder, layers = _mediators(shapes)
    if not all((width, in_channels, patch, mlp_size)):
        raise CheckpointError(f"{source} has tensors of size 0", hint="it is not a trained model")
    num_classes = _num_classes(raw, rows, hints)
    is_pixels = in_channels in PIXEL_CHANNELS
    pixel_space: dict[str, Any] = {"autoencoder": None, "latent_scale": 1.0, "latent_downsample": 1}
    if family == marked_family(shapes):
        settings, side = marked_settings(family, shapes, source)
        _agree_on_heads(hints.num_heads, settings.get("stage_heads", settings["num_heads"]), source)
    else:
        settings, side = {"depth": _depth(shapes), "num_heads": _num_heads(raw, shapes, width, hints)}, None
    side = side or _tokens_side(raw, shapes, patch)
    config = ModelConfig(
        family=family,
        hidden_size=width,
        **settings,
        patch_size=patch,
        latent_size=(side or 1) * patch,
        in_channels=in_channels,
        mlp_ratio=mlp_size / width,
        num_classes=num_classes,
        has_null_class=rows > num_classes,
        learn_sigma=final_rows >= 2 * in_channels * patch**2,
        qk_ratio=(qkv_rows - width) / (2 * width),
        mediators=ladder,
        mediator_layers=layers,
        **parts,
        **batch_norm_statistics(tensors),
        **(pixel_space if is_pixels else {}),
    )
    if is_lightningdit(raw, shapes) and not is_pixels:
        config = replace(config, **latent_fields(raw, in_channels))
    elif not is_pixels and in_channels != SD_CHANNELS and (stride := _trained_stride(raw, config.latent_size)):
        config = replace(config, latent_downsample=stride)
    if not is_pixels and (autoencoder := AUTOENCODERS.get(str(raw.args.get("vae")))):
        config = replace(config, autoencoder=autoencoder)
    if side is not None:
        return config
    resolution_px = hints.resolution_px or _trained_resolution(raw)
    if resolution_px is None:
        raise CheckpointError(
            f"can't tell the resolution of {source}: it has no pos_embed",
            hint="medcli convert it with --res, the image side in pixels it was trained at",
        )
    return config.at_resolution(resolution_px)


def _trained_resolution(raw: RawCheckpoint) -> int | None:
    """Return the image side that the training settings name."""
    sides = (raw.args.get(name) for name in ("image_size", "resolution"))
    return next((side for side in sides if type(side) is int and side > 0), None)


def _trained_stride(raw: RawCheckpoint, latent_size: int) -> int | None:
    """Return the image pixels of a latent pixel by the image side that the training settings name; None: not known."""
    side = _trained_resolution(raw) or 0
    stride, rest = divmod(side, latent_size)
    return None if rest or stride.bit_count() != 1 or stride > MAX_STRIDE else stride


def _require_known(raw: RawCheckpoint, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse what is no model of this layout before anything is asked; name relatives that are not supported."""
    refuse_first_mdt(shapes, raw.path.name)
    refuse_reg(shapes, raw.path.name)
    _shape(shapes, "x_embedder.proj.weight", 4, raw.path.name)


def _shape(shapes: Mapping[str, tuple[int, ...]], name: str, axes: int, source: str) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None:
        raise CheckpointError(
            f"{source} has no tensor {name}, so it is not a known model ({len(shapes)} other tensors found)",
            hint="expected a model in the layout of the official DiT or SiT code, or of diffusers",
        )
    if shape == (0,):
        raise CheckpointError(
            f"{source} holds {name} without its numbers, as DeepSpeed's ZeRO-3 saves it",
            hint="join the parts with the zero_to_fp32.py that DeepSpeed put beside them",
        )
    if len(shape) != axes:
        raise CheckpointError(f"{source}: {name} has shape {shape}, expected {axes} axes", hint="the file is damaged")
    return shape


def _depth(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Blocks by the highest number; a number beyond the count of tensors is no block's and is left for the check."""
    return 1 + max(block for name in shapes if (block := block_of(name)) is not None and block < len(shapes))


def _family(raw: RawCheckpoint, shapes: Mapping[str, tuple[int, ...]], hints: Hints) -> Family:
    """DiT and SiT have the same tensors: ask the user, the settings, the layout, the file name, in this order."""
    marked = marked_family(shapes)
    if hints.family is not None and hints.family != marked and (marked or hints.family in MARKS):
        why = f"it is an {marked}" if marked else f"it has no {MARKS[cast(Family, hints.family)]}"
        raise CheckpointError(f"{raw.path.name} is no {hints.family}: {why}", hint="leave --family out")
    if marked is not None:
        return marked
    if raw.folder_config is not None:
        if hints.family not in (None, "dit"):
            raise CheckpointError(
                f"{raw.path.name} is no {hints.family}: its configuration is of a DiT", hint="leave --family out"
            )
        return "dit"
    if hints.family is not None:
        return cast(Family, hints.family)
    if any(table_of(name) for name in shapes) or is_lightningdit(raw, shapes):
        return "sit"
    model, by_file = named_family(raw.args.get("model")), named_family(raw.path.name)
    if model is None and {"path_type", "interpolant"} & set(raw.args):
        model = "sit"
    if model is not None and by_file not in (None, model):
        raise CheckpointError(
            f"{raw.path.name} is a {by_file} by its name and a {model} by its training settings",
            hint="pass --family dit or --family sit",
        )
    if found := model or by_file or ("dit" if raw.args else None):
        return cast(Family, found)
    raise CheckpointError(
        f"can't tell whether {raw.path.name} is a DiT or a SiT: both have the same tensors",
        hint="pass --family dit or --family sit",
    )


def _num_heads(raw: RawCheckpoint, shapes: Mapping[str, tuple[int, ...]], width: int, hints: Hints) -> int:
    """Heads show in tables and norms of queries; else a hint, the folder's configuration or a preset of this width."""
    tables = (shape for name, shape in shapes.items() if name.endswith("an_bias") and len(shape) == 4)
    channels = head_width(shapes)
    known = width // channels if channels and width % channels == 0 else None
    known = raw.folder_config.num_heads if raw.folder_config else known
    if (held := next((table[0] for table in tables), known)) is not None:
        _agree_on_heads(hints.num_heads, held, raw.path.name)
        return held
    if isinstance(hints.num_heads, tuple):
        raise CheckpointError(f"{raw.path.name} has no stages, so heads are one number", hint="pass --heads H")
    if hints.num_heads is not None:
        if width % hints.num_heads:
            raise CheckpointError(
                f"{raw.path.name} has width {width}, which is not a multiple of {hints.num_heads} heads",
                hint="pass --heads H, the number it was trained with",
            )
        return hints.num_heads
    heads = heads_for_width(width) or _preset_heads(raw.args.get("model"), width)
    if heads is None:
        raise CheckpointError(
            f"can't tell the number of attention heads of {raw.path.name}: no preset has width {width}",
            hint="pass --heads H, the number it was trained with",
        )
    return heads


def _preset_heads(name: Any, width: int) -> int | None:
    """Heads of the preset a training run was started with, if its width is the tensors'."""
    try:
        preset = preset_config(str(name))
    except ConfigError:
        return None
    return preset.num_heads if preset.hidden_size == width else None


def _mediators(shapes: Mapping[str, tuple[int, ...]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ladder and layers by the bias tables that are there."""
    counts: set[int] = set()
    layers: set[int] = set()
    for name, shape in shapes.items():
        table = table_of(name)
        if table is not None and table[1] == "an_bias" and len(shape) == 4:
            counts.add(table[0] or shape[1])
            layers.add(cast(int, block_of(name)))
    return tuple(sorted(counts)), tuple(sorted(layers))


def _num_classes(raw: RawCheckpoint, rows: int, hints: Hints) -> int:
    """Classes among the rows of the label table, whose last row is usually the null class."""
    named = raw.folder_config.num_classes if raw.folder_config else raw.args.get("num_classes")
    if rows in (hints.num_classes, named) or raw.args.get("class_dropout_prob") == 0:
        return rows
    if rows == ONLY_CLASSES and named is None and hints.num_classes is None:
        return rows
    return max(rows - 1, 1)


def _tokens_side(raw: RawCheckpoint, shapes: Mapping[str, tuple[int, ...]], patch: int) -> int | None:
    """Tokens along one side: from the position table, a bias table or the folder; None if none tells."""
    if len(table := shapes.get("pos_embed", ())) == 3:
        side = math.isqrt(table[1])
        if side**2 != table[1] or not side:
            raise CheckpointError(
                f"{raw.path.name}: pos_embed has {table[1]} tokens, which is not a square grid",
                hint="only square images are supported",
            )
        return side
    rows = next((shape[3] for name, shape in shapes.items() if name.endswith("ah_bias") and len(shape) == 5), None)
    if rows is None and raw.folder_config is not None:
        rows = raw.folder_config.latent_size // patch
    return rows
