"""Names of the same tensor in different layouts, as tables with their inverses."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from medcli.checkpoint.tensor_record import TensorRecord, row_concat, row_slice
from medcli.errors import CheckpointError

# Wrappers (data parallel, torch.compile) put these before every name, in any order.
WRAPPER_PREFIXES = ("module.", "_orig_mod.")

# Upstream's name -> diffusers' name, weight and bias alike; {i} is the block. Source: reference-facts 2.
GLOBAL_NAMES = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
BLOCK_NAMES = {
    "blocks.{i}.adaLN_modulation.1": "transformer_blocks.{i}.norm1.linear",
    "blocks.{i}.attn.proj": "transformer_blocks.{i}.attn1.to_out.0",
    "blocks.{i}.mlp.fc1": "transformer_blocks.{i}.ff.net.0.proj",
    "blocks.{i}.mlp.fc2": "transformer_blocks.{i}.ff.net.2",
}
# One tensor upstream, a copy in every block in diffusers.
REPEATED_NAMES = {
    "t_embedder.mlp.0": "transformer_blocks.{i}.norm1.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "transformer_blocks.{i}.norm1.emb.timestep_embedder.linear_2",
    "y_embedder.embedding_table": "transformer_blocks.{i}.norm1.emb.class_embedder.embedding_table",
}
# One tensor upstream, three in diffusers: rows 0..D-1, D..2D-1, 2D..3D-1.
QKV_NAME = "blocks.{i}.attn.qkv"
QKV_PARTS = tuple(f"transformer_blocks.{{i}}.attn1.to_{part}" for part in "qkv")

TABLE_PATTERN = re.compile(r"(\w*blocks\.\d+\.attn\.)(?:ladder\.(\d+)\.)?((?:an|na|ah|aw|ha|wa)_bias)")

# A buffer of MDTv2 that follows from the grid; a model needs no copy of it, upstream's loader does.
OFFSET_INDEX = "attn.rel_pos_bias.relative_position_index"


def is_derived(name: str) -> bool:
    """Check for a tensor of an official file that follows from the configuration."""
    return name.endswith(f".{OFFSET_INDEX}")


def strip_wrappers(names: Iterable[str], source: str) -> dict[str, str]:
    """Strip wrapper prefixes.

    Returns:
        Bare name for each given name.

    Raises:
        CheckpointError: If two names become one.
    """
    bare = {name: _strip(name) for name in names}
    twice = [name for name, count in Counter(bare.values()).items() if count > 1]
    if twice:
        raise CheckpointError(
            f"{source} holds {twice[0]} with and without a wrapper prefix", hint="save it with one set"
        )
    return bare


def _strip(name: str) -> str:
    while name.startswith(WRAPPER_PREFIXES):
        name = name.split(".", 1)[1]
    return name


def table_key(name: str, ladder: tuple[int, ...]) -> str:
    """Return the name a bias table has in a longer ladder.

    A tensor then has one name in every ladder that holds it. Names of other tensors come back unchanged.

    Args:
        name: State-dict name under `ladder`.
        ladder: The mediator counts of the model the name is from.
    """
    found = TABLE_PATTERN.fullmatch(name)
    if found is None or found[2] is not None or len(ladder) != 1:
        return name
    return f"{found[1]}ladder.{ladder[0]}.{found[3]}"


def table_of(name: str) -> tuple[int | None, str] | None:
    """Return mediator count (None in a ladder of one) and table by a bias table's name; None for others."""
    found = TABLE_PATTERN.fullmatch(name)
    return found and (int(found[2]) if found[2] else None, found[3])


def block_of(name: str) -> int | None:
    """Return the block a tensor belongs to by its upstream name; None for the others."""
    found = re.match(r"blocks\.(\d+)\.", name)
    return int(found[1]) if found else None


def renamings(depth: int) -> dict[str, str]:
    """Return diffusers' names by upstream's for tensors stored whole; of repeated ones, block 0's copy."""
    layers = {old.format(i=i): new.format(i=i) for old, new in BLOCK_NAMES.items() for i in range(depth)}
    repeated = {old: new.format(i=0) for old, new in REPEATED_NAMES.items()}
    return GLOBAL_NAMES | layers | repeated


def from_diffusers(tensors: Mapping[str, TensorRecord], depth: int) -> dict[str, TensorRecord]:
    """Rename a diffusers DiT's tensors to upstream's names; unknown names are kept.

    The embedders repeated in every block come from block 0. What is missing stays missing, for the check to name.
    """
    depth = min(depth, len(tensors))  # a damaged configuration may claim any number
    inverse = {new: old for old, new in renamings(depth).items()}
    copies = {new.format(i=i) for new in REPEATED_NAMES.values() for i in range(1, depth)}
    parts = {part.format(i=i) for part in QKV_PARTS for i in range(depth)}
    result: dict[str, TensorRecord] = {}
    for name, record in tensors.items():
        stem, dot, kind = name.rpartition(".")
        if stem in inverse:
            result[f"{inverse[stem]}.{kind}"] = record.renamed(f"{inverse[stem]}.{kind}")
        elif stem not in copies and stem not in parts:
            result[name] = record
    for i in range(depth):
        for kind in ("weight", "bias"):
            found = [tensors[key] for part in QKV_PARTS if (key := f"{part.format(i=i)}.{kind}") in tensors]
            if len(found) == len(QKV_PARTS):
                name = f"{QKV_NAME.format(i=i)}.{kind}"
                result[name] = row_concat(name, found)
    return result


def to_diffusers(tensors: Mapping[str, TensorRecord], depth: int) -> dict[str, TensorRecord]:
    """Rename a plain DiT's tensors to diffusers' names; the position table is left out, diffusers recomputes it."""
    forward = renamings(depth)
    split = {QKV_NAME.format(i=i): [part.format(i=i) for part in QKV_PARTS] for i in range(depth)}
    result: dict[str, TensorRecord] = {}
    for name, record in tensors.items():
        stem, _, kind = name.rpartition(".")
        if stem in REPEATED_NAMES:
            targets = [REPEATED_NAMES[stem].format(i=i) for i in range(depth)]
            result |= {f"{target}.{kind}": record.renamed(f"{target}.{kind}") for target in targets}
        elif stem in forward:
            result[f"{forward[stem]}.{kind}"] = record.renamed(f"{forward[stem]}.{kind}")
        elif stem in split:
            rows = record.shape[0] // len(QKV_PARTS)
            for place, target in enumerate(split[stem]):
                result[f"{target}.{kind}"] = row_slice(record, f"{target}.{kind}", place * rows, (place + 1) * rows)
    return result
