"""Where each block stands and how large it is: what tensors, costs and the network itself follow. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, replace

from medcli.config import ModelConfig

SIDE_BLOCK = "sideblocks.0"
"""Block of an MDTv2 that only masked training runs; it is not counted among the blocks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockGeometry:
    """One transformer block."""

    name: str
    """Its place in the state dict, such as `blocks.3`."""
    width: int
    """Width D of its tokens."""
    num_heads: int
    tokens_side: int
    """Tokens along one side of its grid."""
    has_skip: bool = False
    """Whether it first joins its tokens with a skip (`skip_linear`, MDTv2)."""

    @property
    def num_tokens(self) -> int:
        """Tokens N."""
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
        """Tokens N."""
        return self.tokens_side**2


def stages(config: ModelConfig) -> tuple[StageGeometry, ...]:
    """The stages of an EDT in order; any other network is one stage."""
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
    """Blocks of either half of an MDTv2's encoder."""
    return (config.depth - config.decoder_depth) // 2


def block_names(config: ModelConfig) -> tuple[str, ...]:
    """State-dict prefixes of the blocks in the order they run, which is how blocks are numbered."""
    if config.family != "mdtv2":
        return tuple(f"blocks.{layer}" for layer in range(config.depth))
    half = encoder_half(config)
    lists = {"en_inblocks": half, "en_outblocks": half, "de_blocks": config.decoder_depth}
    return tuple(f"{name}.{place}" for name, length in lists.items() for place in range(length))


def blocks(config: ModelConfig) -> tuple[BlockGeometry, ...]:
    """Every block in the order it runs."""
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
    """The block by which masked training of an MDTv2 fills the holes."""
    return BlockGeometry(
        name=SIDE_BLOCK, width=config.hidden_size, num_heads=config.num_heads, tokens_side=config.tokens_side
    )


def block_kinds(config: ModelConfig) -> tuple[int, ...]:
    """For each block the number of its kind: blocks of one kind cost the same. An EDT has one kind a stage."""
    half = encoder_half(config)
    lengths = config.stage_depths or (
        (half, half, config.decoder_depth) if config.family == "mdtv2" else (config.depth,)
    )
    return tuple(kind for kind, length in enumerate(lengths) for _ in range(length))


def one_of_each_kind(config: ModelConfig) -> ModelConfig:
    """A network of the same family with one block of each kind, and no mediators."""
    num_kinds = block_kinds(config)[-1] + 1
    return replace(
        config,
        depth=num_kinds,
        stage_depths=(1,) * len(config.stage_depths),
        decoder_depth=min(config.decoder_depth, 1),
        mediators=(),
        mediator_layers=(),
    )
