"""Change a model's ladder, resolution or classes: pure functions from tensors and a target to tensors.

Nothing is read here but what has to be interpolated, and that only when it is written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from medcli.checkpoint.keymap import table_key
from medcli.checkpoint.reader import main_dtype, position_records
from medcli.checkpoint.tensor_record import TensorRecord, computed, from_bytes, row_concat, row_slice, zeros
from medcli.config import ModelConfig, Positions
from medcli.errors import ConfigError
from medcli.model.layout import blocks, position_tables, tensor_shapes
from medcli.presets import default_ladder, saves

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class TooFewTokens(ConfigError):
    """A block's token grid is smaller than its mediators'."""


LABEL_TABLE = "y_embedder.embedding_table.weight"
GRID_TABLES = ("relative_position_bias_table", "pos_embed")
"""Learned tables over a square grid."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Surgery:
    """Tensors of the changed model in file order, and the origin of each."""

    config: ModelConfig
    records: Mapping[str, TensorRecord]
    copied: tuple[str, ...]
    """Names of tensors copied unchanged."""
    resized: tuple[str, ...]
    """Names of tensors resampled for another resolution or number of classes."""
    new: tuple[str, ...]
    """Names of tensors the source lacks; they start neutral."""
    dropped: tuple[str, ...]
    """Names of source tensors that the target does not have."""


def target_config(
    config: ModelConfig,
    *,
    mediators: tuple[int, ...] | None,
    layers: tuple[int, ...] | None,
    resolution_px: int | None = None,
    num_classes: int | None = None,
    positions: Positions = "interpolate",
    add_mediators: bool = True,
) -> ModelConfig:
    """Compute the target configuration.

    Args:
        config: What there is.
        mediators: The ladder; None: the source's, else the default one; empty: none, any that are there go.
        layers: Blocks with mediators; None: the source's, else `default_layers`; empty: whatever the source has.
        resolution_px: Side of the square image; None keeps the source's.
        num_classes: Classes, the null class not counted; None keeps the source's.
        positions: Fixed positions at another resolution.
        add_mediators: Whether a model without mediators gets some when neither ladder nor layers are given.

    Raises:
        ConfigError: If the values contradict each other or do not fit the model; `TooFewTokens` if a grid is too small.
    """
    if layers == () and mediators:
        raise ConfigError("--layers none leaves no block for --mediators", hint="leave out one of the two")
    if mediators == () and layers:
        raise ConfigError("--layers has no effect with --mediators none", hint="leave out one of the two")
    if positions == "anew" and config.family == "mdtv2" and resolution_px is not None:
        raise ConfigError("--positions anew: an MDTv2 learns its positions", hint="leave --positions out")
    target = config if resolution_px is None else config.at_resolution(resolution_px, positions=positions)
    target = replace(target, num_classes=num_classes or config.num_classes)
    if mediators == ():
        return replace(target, mediators=(), mediator_layers=())
    asked = bool(mediators or layers)
    by_default = add_mediators and layers is None and not config.mediators and config.qk_ratio == 1.0
    if not asked and not by_default:
        return target
    ladder = mediators or config.mediators or default_ladder(target.num_tokens)
    chosen = layers or config.mediator_layers or default_layers(target, ladder[-1])
    target = replace(target, mediators=ladder, mediator_layers=chosen)
    _check_grids(target)
    return target


def default_layers(config: ModelConfig, largest: int) -> tuple[int, ...]:
    """Return the blocks that get mediators by default: all, of an EDT those on whose grid they save or at least fit.

    Args:
        largest: Largest count of the ladder.
    """
    tokens = {layer: block.num_tokens for layer, block in enumerate(blocks(config))}
    saving = tuple(layer for layer, number in tokens.items() if saves(largest, number))
    return saving or tuple(layer for layer, number in tokens.items() if number >= largest) or tuple(tokens)


def _check_grids(config: ModelConfig) -> None:
    """Refuse mediators in EDT stages whose token grid is smaller than the mediators'.

    Raises:
        TooFewTokens: Naming block and count.
    """
    places = blocks(config)
    for layer in config.mediator_layers if config.stage_depths else ():
        side = places[layer].tokens_side
        if side**2 < config.mediators[-1]:
            raise TooFewTokens(
                f"block {layer} has {side} x {side} tokens at {config.resolution_px} px, "
                f"so queries can't be pooled to {config.mediators[-1]} mediators there",
                hint="name blocks of the outer stages with --layers, or fewer --mediators",
            )


def operate(
    records: Mapping[str, TensorRecord], config: ModelConfig, target: ModelConfig, *, made: tuple[str, ...] = ()
) -> Surgery:
    """Convert the tensors of one model into those of another.

    Args:
        records: All tensors of the source, by name.
        config: The source.
        target: The same network with another ladder, other layers, another resolution or number of classes.
        made: Tensors among `records` that the source file lacked.
    """
    by_key = {table_key(name, config.mediators): record for name, record in records.items()}
    result: dict[str, TensorRecord] = {}
    groups: dict[str, list[str]] = {"copied": [], "resized": [], "new": []}
    moved = position_tables(target) if config.positions_side != target.positions_side else {}
    for name, shape in tensor_shapes(target).items():
        source = by_key.pop(table_key(name, target.mediators), None)
        if source is None:
            group, result[name] = "new", zeros(name, main_dtype(records), shape)
        elif source.shape == shape and name not in moved:
            group, result[name] = "new" if name in made else "copied", source.renamed(name)
        else:
            group, result[name] = "resized", _resized(source, name, shape, config, target)
        groups[group].append(name)
    return Surgery(
        config=target,
        records=result,
        dropped=tuple(record.name for record in by_key.values()),
        copied=tuple(groups["copied"]),
        resized=tuple(groups["resized"]),
        new=tuple(groups["new"]),
    )


def _resized(
    source: TensorRecord, name: str, shape: tuple[int, ...], config: ModelConfig, target: ModelConfig
) -> TensorRecord:
    positions = position_records(target, source.dtype)
    if name in positions:
        return positions[name]
    if name == LABEL_TABLE:
        return relabelled(source, config, target.num_classes)
    axis = next(axis for axis, (old, new) in enumerate(zip(source.shape, shape, strict=True)) if old != new)
    is_grid = name.endswith(GRID_TABLES)

    def make() -> NDArray[np.floating]:
        values = from_bytes(source.read(), source.dtype, source.shape)
        return resize_grid(values, axis, shape[axis]) if is_grid else resize_linear(values, axis, shape[axis])

    return computed(name, source.dtype, shape, make)


def resize_linear(values: NDArray[np.floating], axis: int, size: int) -> NDArray[np.floating]:
    """Resample one axis linearly, first and last point kept in place (align_corners).

    Args:
        values: Numbers on an even grid along `axis`.
        axis: The axis to resample.
        size: Points it gets.

    Returns:
        float64 numbers with `size` points along `axis`.

    Source: reference-facts 3.3.
    """
    import numpy as np

    last = values.shape[axis] - 1
    place = np.linspace(0.0, last, size)
    low = np.minimum(place.astype(np.int64), max(last - 1, 0))
    weight = (place - low).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    wide = values.astype(np.float64)
    upper = np.minimum(low + 1, last)
    return np.take(wide, low, axis=axis) * (1 - weight) + np.take(wide, upper, axis=axis) * weight


def resize_grid(values: NDArray[np.floating], axis: int, size: int) -> NDArray[np.floating]:
    """Resample an axis that runs over a square grid, row by row, linearly along both of its sides.

    Rows beyond the square, which MDTv2's tables of offsets have, are kept as they are. The references resize neither
    these tables nor learnt positions.

    Args:
        values: Numbers whose `axis` runs over the grid.
        axis: That axis.
        size: Points it gets, of a square grid and as many beyond it.

    Returns:
        float64 numbers with `size` points along `axis`.
    """
    import numpy as np

    moved = np.moveaxis(values, axis, 0)
    side, new_side = math.isqrt(len(moved)), math.isqrt(size)
    grid = moved[: side**2].reshape(side, side, *moved.shape[1:])
    resized = resize_linear(resize_linear(grid, 0, new_side), 1, new_side).reshape(-1, *moved.shape[1:])
    return np.moveaxis(np.concatenate([resized, moved[side**2 :]]), 0, axis)


def relabelled(table: TensorRecord, config: ModelConfig, num_classes: int) -> TensorRecord:
    """Return the label table for another number of classes.

    The first classes and the null class keep their rows. A class that is added starts as the
    null class; without a null class, as zeros.
    """
    kept = min(num_classes, config.num_classes)
    rows = [row_slice(table, table.name, 0, kept)]
    null = row_slice(table, table.name, config.num_classes, table.shape[0]) if config.has_null_class else None
    added = num_classes - kept
    if added:
        blank = zeros(table.name, table.dtype, (added, *table.shape[1:]))
        rows += [blank] if null is None else [null] * added
    return row_concat(table.name, rows if null is None else [*rows, null])
