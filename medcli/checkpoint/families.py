"""Infer the architecture of an EDT or an MDTv2 from its tensors; for DiT and SiT see `infer`.

Their relative position biases tell heads and grid of every block. Source: edt-facts 1.7 and 5.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from medcli.config import Family
from medcli.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]

MARKS: dict[Family, str] = {"edt": "down_blocks.0.reduction.weight", "mdtv2": "en_inblocks.0.attn.qkv.weight"}
"""Name of a tensor that only this family has."""
FIRST_BLOCKS: dict[Family, str] = {"mdtv2": "en_inblocks.0"}
"""Prefix of a family's first block, if not `blocks.0`."""
TABLE = "attn.rel_pos_bias.relative_position_bias_table"


def marked_family(shapes: Shapes) -> Family | None:
    """Return the family that the tensors show; None for DiT and SiT, which have the same tensors."""
    return next((family for family, name in MARKS.items() if name in shapes), None)


def first_block(family: Family) -> str:
    """Return the state-dict prefix of the first block."""
    return FIRST_BLOCKS.get(family, "blocks.0")


@dataclass(frozen=True, slots=True)
class _Block:
    width: int
    num_heads: int
    tokens_side: int


def marked_settings(family: Family, shapes: Shapes, source: str) -> tuple[dict[str, Any], int]:
    """Return the configuration's fields that follow from the blocks, and tokens along a side at the input.

    Raises:
        CheckpointError: If a block's tensors are missing or have impossible shapes.
    """
    if family == "mdtv2":
        halves = [_length(shapes, name) for name in ("en_inblocks", "en_outblocks", "de_blocks")]
        block = _block(shapes, first_block(family), source)
        return {"depth": sum(halves), "num_heads": block.num_heads, "decoder_depth": halves[2]}, block.tokens_side
    blocks = [_block(shapes, f"blocks.{layer}", source) for layer in range(_length(shapes, "blocks"))]
    if not blocks:
        raise CheckpointError(f"{source} has the down-samplers of an EDT but no blocks", hint="copy the file again")
    # A stage ends where the grid changes, which it always does.
    stages = [(block, len(list(run))) for block, run in groupby(blocks)]
    settings = {
        "depth": len(blocks),
        "num_heads": blocks[0].num_heads,
        "stage_depths": tuple(depth for _, depth in stages),
        "stage_widths": tuple(block.width for block, _ in stages),
        "stage_heads": tuple(block.num_heads for block, _ in stages),
    }
    return settings, blocks[0].tokens_side


def _length(shapes: Shapes, name: str) -> int:
    """Count the blocks of a list by the highest number; numbers beyond the count of tensors are left to the check."""
    pattern = re.compile(rf"{name}\.(\d+)\.")
    numbers = [int(found[1]) for key in shapes if (found := pattern.match(key))]
    return 1 + max((number for number in numbers if number < len(shapes)), default=-1)


def _block(shapes: Shapes, name: str, source: str) -> _Block:
    qkv, table = shapes.get(f"{name}.attn.qkv.weight", ()), shapes.get(f"{name}.{TABLE}", ())
    if len(qkv) != 2 or len(table) != 2 or not all((*qkv, *table)):
        raise CheckpointError(
            f"{source} lacks {name}.attn.qkv.weight or its {TABLE.rpartition('.')[2]}, or they are misshapen",
            hint="copy or download the file again",
        )
    # An MDTv2's table has three rows more than a square, which the root leaves out.
    return _Block(qkv[1], table[1], (math.isqrt(table[0]) + 1) // 2)
