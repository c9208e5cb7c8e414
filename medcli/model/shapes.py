"""Every tensor of a model by name and shape, known without building it. Torch-free."""

from __future__ import annotations

import math

from medcli.config import ModelConfig

TABLE_SIDE = 7
"""Side of the learned bias maps that are resized to the token grid (reference-facts 3.1)."""

BIAS_TABLES = ("an_bias", "na_bias", "ah_bias", "aw_bias", "ha_bias", "wa_bias")
"""The position-bias tables of one mediator count. Letters: a mediator, n token, h row, w column."""

FREQUENCY_FEATURES = 256
"""Sinusoidal features of a timestep."""


def bias_shapes(heads: int, side: int, num_mediators: int) -> dict[str, tuple[int, ...]]:
    """The six position-bias tables one mediator count needs in one layer, by their upstream names.

    Args:
        heads: Attention heads.
        side: Tokens along one side of the grid.
        num_mediators: The count.
    """
    shapes = (
        (heads, num_mediators, TABLE_SIDE, TABLE_SIDE),
        (heads, num_mediators, TABLE_SIDE, TABLE_SIDE),
        (1, heads, num_mediators, side, 1),
        (1, heads, num_mediators, 1, side),
        (1, heads, side, 1, num_mediators),
        (1, heads, 1, side, num_mediators),
    )
    return dict(zip(BIAS_TABLES, shapes, strict=True))


def ladder_prefix(ladder: tuple[int, ...], num_mediators: int) -> str:
    """Where a count's tables live below `blocks.{i}.attn.`: upstream's own place when the ladder is one count."""
    return "" if len(ladder) == 1 else f"ladder.{num_mediators}."


def mediator_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The tensors mediators add to one attention layer, names relative to `blocks.{i}.attn.`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for count in config.mediators:
        prefix = ladder_prefix(config.mediators, count)
        tables = bias_shapes(config.num_heads, config.tokens_side, count)
        shapes |= {prefix + name: shape for name, shape in tables.items()}
    shapes["dwc.weight"] = (config.hidden_size, 1, 3, 3)
    shapes["dwc.bias"] = (config.hidden_size,)
    return shapes


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every state-dict name of the model with its shape, in a fixed order."""
    width, patch = config.hidden_size, config.patch_size
    shapes: dict[str, tuple[int, ...]] = {"pos_embed": (1, config.num_tokens, width)}

    def linear(name: str, rows: int, columns: int) -> None:
        shapes[f"{name}.weight"] = (rows, columns)
        shapes[f"{name}.bias"] = (rows,)

    shapes["x_embedder.proj.weight"] = (width, config.in_channels, patch, patch)
    shapes["x_embedder.proj.bias"] = (width,)
    linear("t_embedder.mlp.0", width, FREQUENCY_FEATURES)
    linear("t_embedder.mlp.2", width, width)
    shapes["y_embedder.embedding_table.weight"] = (config.num_label_rows, width)
    for layer in range(config.depth):
        block = f"blocks.{layer}"
        linear(f"{block}.attn.qkv", 2 * config.qk_size + width, width)
        linear(f"{block}.attn.proj", width, width)
        if layer in config.mediator_layers:
            shapes |= {f"{block}.attn.{name}": shape for name, shape in mediator_shapes(config).items()}
        linear(f"{block}.mlp.fc1", config.mlp_size, width)
        linear(f"{block}.mlp.fc2", width, config.mlp_size)
        linear(f"{block}.adaLN_modulation.1", 6 * width, width)
    linear("final_layer.linear", patch * patch * config.out_channels, width)
    linear("final_layer.adaLN_modulation.1", 2 * width, width)
    return shapes


def num_params(config: ModelConfig) -> int:
    """Parameters of the model, the fixed position table included (as upstream counts)."""
    return sum(math.prod(shape) for shape in tensor_shapes(config).values())
