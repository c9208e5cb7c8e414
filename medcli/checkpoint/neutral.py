"""Mediators that conversion added and no training has changed. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from medcli.checkpoint.tensor_record import TensorRecord
from medcli.config import ModelConfig
from medcli.model.layout import BIAS_TABLES, blocks, ladder_prefix


def neutral_counts(records: Mapping[str, TensorRecord], config: ModelConfig, counts: Iterable[int]) -> tuple[int, ...]:
    """Return the mediator counts whose position biases are zero in every layer, as conversion makes them.

    Args:
        records: Tensors of the checkpoint, by name.
        counts: Counts of its ladder to check; 0, full attention, is never neutral.
    """
    layers = [blocks(config)[layer].name for layer in config.mediator_layers]

    def is_neutral(count: int) -> bool:
        prefix = ladder_prefix(config.mediators, count)
        tables = (records[f"{layer}.attn.{prefix}{table}"].read() for layer in layers for table in BIAS_TABLES)
        return all(table.count(0) == len(table) for table in tables)

    return tuple(count for count in counts if count and is_neutral(count))
