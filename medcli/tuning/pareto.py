"""Fronts of cost against error, and which of many proposals deserve a run. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Measure = Callable[[Item], float]


def front(items: Sequence[Item], cost: Measure[Item], error: Measure[Item]) -> list[Item]:
    """Those that nothing beats in both, by rising cost. O(n log n). Of equals the first given stays."""
    best: list[Item] = []
    for item in sorted(items, key=lambda item: (cost(item), error(item))):
        if not best or error(item) < error(best[-1]):
            best.append(item)
    return best


def spread(items: Sequence[Item], number: int) -> list[Item]:
    """At most so many of a row, first and last among them, at even distances."""
    if number >= len(items):
        return list(items)
    if number < 2:
        return list(items[:number])
    return [items[round(place * (len(items) - 1) / (number - 1))] for place in range(number)]


def finalists(
    items: Sequence[Item], number: int, limit: float, cost: Measure[Item], error: Measure[Item]
) -> list[Item]:
    """Proposals that deserve a run: half of them over the whole front, the others the best within the budget.

    Args:
        items: All proposals.
        number: How many at most.
        limit: The budget, in the unit of `cost`.
        cost: Proposed cost.
        error: Proposed error.
    """
    chosen = spread(front(items, cost, error), number - number // 2)
    within = sorted((item for item in items if cost(item) <= limit), key=lambda item: (error(item), cost(item)))
    for item in within:
        if len(chosen) == number:
            break
        if item not in chosen:
            chosen.append(item)
    return chosen


def best_within(items: Sequence[Item], limit: float, cost: Measure[Item], error: Measure[Item]) -> Item | None:
    """The least error that the budget allows, the cheaper of equals; None if it allows nothing."""
    allowed = [item for item in items if cost(item) <= limit]
    return min(allowed, key=lambda item: (error(item), cost(item)), default=None)
