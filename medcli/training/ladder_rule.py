"""Which mediator counts a training step teaches: a function of (seed, step), so a resumed run goes on as it was."""

from __future__ import annotations

import torch

from medcli.errors import ConfigError
from medcli.runtime.noise import Stream, integers

LADDER_RULES = ("sandwich", "split")
CYCLE = 3
"""Steps in which `sandwich` trains the largest count, the smallest and another."""


def counts_of_step(rule: str, counts: tuple[int, ...], seed: int, step: int, batch_size: int) -> tuple[int, ...]:
    """Say how many mediators each row of a step's batch goes through.

    The batch is the global one; a process takes the counts of its rows. The number of processes then changes nothing.

    Args:
        rule: `sandwich`: all rows share one count; steps take turns with the largest (full attention counts as the
            largest), the smallest and one drawn at random from the others. The outer counts bound what lies between
            (the sandwich rule of slimmable networks, arXiv 1903.05134), and one pass over the whole batch is faster
            than one over each part of it. `split`: each count gets an equal run of rows of every step.
        counts: Counts to train, 0 for full attention; `split` hands out rows in this order.
        seed: Of the run.
        step: Number of the step, from 0.
        batch_size: Rows of the global batch; `split` needs one per count.

    Returns:
        A count for each row, rows of equal count next to each other.

    Raises:
        ConfigError: If there is no such rule.
    """
    if rule == "split":
        return tuple(
            count for count, size in zip(counts, _shares(batch_size, len(counts)), strict=True) for _ in range(size)
        )
    if rule != "sandwich":
        raise ConfigError(
            f"unknown ladder rule {rule!r}, expected one of {', '.join(LADDER_RULES)}",
            hint="sandwich trains one count a step, split all of them",
        )
    rising = sorted(counts, key=_size)
    turn = (rising[-1], rising[0], _drawn(rising[1:-1] or rising, seed, step))
    return (turn[step % CYCLE],) * batch_size


def _size(count: int) -> float:
    return count or float("inf")


def _shares(batch_size: int, num_counts: int) -> list[int]:
    """Rows of each count, as equal as they go."""
    edges = [batch_size * position // num_counts for position in range(num_counts + 1)]
    return [end - start for start, end in zip(edges, edges[1:], strict=False)]


def _drawn(counts: list[int], seed: int, step: int) -> int:
    pick_1 = integers(seed, torch.tensor([step]), torch.tensor([0]), len(counts), Stream.TRAIN_COUNT)
    return counts[int(pick_1)]
