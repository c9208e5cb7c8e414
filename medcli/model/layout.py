"""Place and size of each block, name and shape of each tensor, and fixed position tables. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from medcli.config import ModelConfig
from medcli.model.part_kinds import MLP_LAYERS, NORMS

SIDE_BLOCK = "sideblocks.0"
"""Block of an MDTv2 that runs only in masked training; it is not one of the numbered blocks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockGeometry:
    """Place and size of a transformer block."""

    name: str
    """State-dict prefix, such as `blocks.3`."""
    width: int
    """Width D of the tokens."""
    num_heads: int
    tokens_side: int
    """Tokens along one side of the grid."""
    has_skip: bool = False
    """True if tokens are first joined with a skip (`skip_linear`, MDTv2)."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens N."""
        return self.tokens_side**2


@dataclass(frozen=True, kw_only=True, slots=True)
class StageGeometry:
    """One stage of an EDT: blocks of one width on one grid."""

    depth: int
    width: int
    num_heads: int
    tokens_side: int

    @property
    def num_tokens(self) -> int:
        """Number of tokens N."""
        return self.tokens_side**2


def stages(config: ModelConfig) -> tuple[StageGeometry, ...]:
    """Return the stages of an EDT in order; any other network is one stage."""
    if not config.stage_depths:
        whole = StageGeometry(
            depth=config.depth, width=config.hidden_size, num_heads=config.num_heads, tokens_side=config.tokens_side
        )
        return (whole,)
    middle = len(config.stage_depths) // 2
    parts = zip(config.stage_depths, config.stage_widths, config.stage_heads, strict=True)
    return tuple(
        StageGeometry(
            depth=depth,
            width=width,
            num_heads=heads,
            tokens_side=config.tokens_side // 2 ** (middle - abs(place - middle)),
        )
        for place, (depth, width, heads) in enumerate(parts)
    )


def encoder_half(config: ModelConfig) -> int:
    """Return the number of blocks in each half of an MDTv2's encoder."""
    return (config.depth - config.decoder_depth) // 2


def block_names(config: ModelConfig) -> tuple[str, ...]:
    """Return the state-dict prefixes of the blocks in the order they run, which is how they are numbered."""
    if config.family != "mdtv2":
        return tuple(f"blocks.{layer}" for layer in range(config.depth))
    half = encoder_half(config)
    lists = {"en_inblocks": half, "en_outblocks": half, "de_blocks": config.decoder_depth}
    return tuple(f"{name}.{place}" for name, length in lists.items() for place in range(length))


def blocks(config: ModelConfig) -> tuple[BlockGeometry, ...]:
    """Return every block in the order it runs."""
    of_stage = [stage for stage in stages(config) for _ in range(stage.depth)]
    with_skip = encoder_half(config) if config.family == "mdtv2" else config.depth
    return tuple(
        BlockGeometry(
            name=name,
            width=stage.width,
            num_heads=stage.num_heads,
            tokens_side=stage.tokens_side,
            has_skip=layer >= with_skip,
        )
        for layer, (name, stage) in enumerate(zip(block_names(config), of_stage, strict=True))
    )


def side_block(config: ModelConfig) -> BlockGeometry:
    """Return the block that predicts masked tokens in the training of an MDTv2."""
    return BlockGeometry(
        name=SIDE_BLOCK, width=config.hidden_size, num_heads=config.num_heads, tokens_side=config.tokens_side
    )


def block_kinds(config: ModelConfig) -> tuple[int, ...]:
    """Return the kind of each block; blocks of one kind cost the same. An EDT has one kind per stage."""
    half = encoder_half(config)
    lengths = config.stage_depths or (
        (half, half, config.decoder_depth) if config.family == "mdtv2" else (config.depth,)
    )
    return tuple(kind for kind, length in enumerate(lengths) for _ in range(length))


def one_of_each_kind(config: ModelConfig) -> ModelConfig:
    """Return a network of the same family with one block of each kind and no mediators."""
    num_kinds = block_kinds(config)[-1] + 1
    return replace(
        config,
        depth=num_kinds,
        stage_depths=(1,) * len(config.stage_depths),
        decoder_depth=min(config.decoder_depth, 1),
        mediators=(),
        mediator_layers=(),
    )


TABLE_SIDE = 7
"""Side of the learned bias maps, which are resized to the token grid (reference-facts 3.1)."""

BIAS_TABLES = ("an_bias", "na_bias", "ah_bias", "aw_bias", "ha_bias", "wa_bias")
"""The position-bias tables of one mediator count. Letters: a mediator, n token, h row, w column."""

FREQUENCY_FEATURES = 256
"""Number of sinusoidal features of a timestep."""


def bias_shapes(heads: int, side: int, num_mediators: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the six position-bias tables of a mediator count in a layer, by upstream name.

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
    """Return the prefix of a count's tables below `blocks.{i}.attn.`: upstream's if the ladder has one count."""
    return "" if len(ladder) == 1 else f"ladder.{num_mediators}."


def relative_table_shape(config: ModelConfig, block: BlockGeometry) -> tuple[int, int]:
    """Return rows and heads of a block's relative position bias; MDTv2 has three unused rows (edt-facts 5)."""
    unused = 3 if config.family == "mdtv2" else 0
    return ((2 * block.tokens_side - 1) ** 2 + unused, block.num_heads)


def mediator_shapes(config: ModelConfig, block: BlockGeometry) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors that mediators add to an attention layer, by name in the layer."""
    shapes: dict[str, tuple[int, ...]] = {}
    for count in config.mediators:
        prefix = ladder_prefix(config.mediators, count)
        tables = bias_shapes(block.num_heads, block.tokens_side, count)
        shapes |= {prefix + name: shape for name, shape in tables.items()}
    shapes["dwc.weight"] = (block.width, 1, 3, 3)
    shapes["dwc.bias"] = (block.width,)
    return shapes


def linear_shapes(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of weight and bias of a linear layer."""
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def block_shapes(config: ModelConfig, block: BlockGeometry, *, mediated: bool) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of a block, by full name."""
    name, width = block.name, block.width
    qk_size, mlp_size = round(width * config.qk_ratio), round(width * config.mlp_ratio)
    shapes: dict[str, tuple[int, ...]] = {}
    norm = NORMS[config.norm]
    shapes |= {f"{name}.norm{place}.{part}": (width,) for place in (1, 2) for part in norm.of_tokens}
    if config.qk_norm:
        head_width = qk_size // block.num_heads
        shapes |= {f"{name}.attn.{side}_norm.{part}": (head_width,) for side in "qk" for part in norm.of_heads}
    if block.has_skip:
        shapes |= linear_shapes(f"{name}.skip_linear", width, 2 * width)
    shapes |= linear_shapes(f"{name}.attn.qkv", 2 * qk_size + width, width)
    shapes |= linear_shapes(f"{name}.attn.proj", width, width)
    if config.has_relative_bias:
        shapes[f"{name}.attn.rel_pos_bias.relative_position_bias_table"] = relative_table_shape(config, block)
    if mediated:
        shapes |= {f"{name}.attn.{part}": shape for part, shape in mediator_shapes(config, block).items()}
    for layer, size in MLP_LAYERS[config.mlp](width, mlp_size).items():
        shapes |= linear_shapes(f"{name}.mlp.{layer}", *size)
    return shapes | linear_shapes(f"{name}.adaLN_modulation.1", modulations(config) * width, config.hidden_size)


def modulations(config: ModelConfig) -> int:
    """Return the number of vectors by which the condition modulates a block: shift, scale and gate, twice."""
    return 6 if config.has_shift else 4


def between_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors between the stages of an EDT or beside the blocks of an MDTv2."""
    shapes: dict[str, tuple[int, ...]] = {}
    if config.family == "mdtv2":
        shapes["mask_token"] = (1, 1, config.hidden_size)
        shapes["decoder_pos_embed"] = (1, config.num_tokens, config.hidden_size)
        shapes |= block_shapes(config, side_block(config), mediated=False)
    all_stages, condition = stages(config), config.hidden_size
    middle = len(all_stages) // 2
    for place, (here, after) in enumerate(zip(all_stages, all_stages[1:], strict=False)):
        if place < middle:
            name = f"down_blocks.{place}"
            shapes[f"{name}.pos_embed"] = (1, after.tokens_side**2, after.width)
            shapes |= linear_shapes(f"{name}.adaLN_modulation.1", 8 * here.width, condition)
            shapes[f"{name}.reduction.weight"] = (after.width, 4 * here.width)
        else:
            name = f"concat_blocks.{place - middle}"
            shapes[f"up_blocks.{place - middle}.expand.weight"] = (4 * after.width, here.width)
            shapes[f"{name}.pos_embed"] = (1, after.tokens_side**2, after.width)
            shapes |= linear_shapes(f"{name}.adaLN_modulation.1", 4 * after.width, condition)
            shapes |= linear_shapes(f"{name}.cat", after.width, 2 * after.width)
    return shapes


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in the state dict, in a fixed order."""
    width, patch = config.hidden_size, config.patch_size
    shapes: dict[str, tuple[int, ...]] = {"pos_embed": (1, config.num_tokens, width)}
    shapes["x_embedder.proj.weight"] = (width, config.in_channels, patch, patch)
    shapes["x_embedder.proj.bias"] = (width,)
    shapes |= linear_shapes("t_embedder.mlp.0", width, FREQUENCY_FEATURES)
    shapes |= linear_shapes("t_embedder.mlp.2", width, width)
    shapes["y_embedder.embedding_table.weight"] = (config.num_label_rows, width)
    for layer, block in enumerate(blocks(config)):
        shapes |= block_shapes(config, block, mediated=layer in config.mediator_layers)
    shapes |= between_shapes(config)
    shapes |= {f"final_layer.norm_final.{part}": (width,) for part in NORMS[config.norm].of_tokens}
    shapes |= linear_shapes("final_layer.linear", patch * patch * config.out_channels, width)
    return shapes | linear_shapes("final_layer.adaLN_modulation.1", 2 * width, width)


def position_tables(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Return width and grid side of the fixed position tables by name; MDTv2 learns its own and has none."""
    if config.family == "mdtv2":
        return {}
    tables = {"pos_embed": (config.hidden_size, config.tokens_side)}
    for name, shape in between_shapes(config).items():
        if name.endswith(".pos_embed"):
            tables[name] = (shape[2], math.isqrt(shape[1]))
    return tables


def num_params(config: ModelConfig) -> int:
    """Return the number of parameters, including the fixed position table, as upstream counts."""
    return sum(math.prod(shape) for shape in tensor_shapes(config).values())
