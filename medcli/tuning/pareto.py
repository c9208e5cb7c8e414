"""Pareto fronts of cost against error. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Measure = Callable[[Item], float]


def front(items: Sequence[Item], cost: Measure[Item], error: Measure[Item]) -> list[Item]:
    """Return the Pareto front by rising cost; of equal items the first one. O(n log n)."""
    best: list[Item] = []
    for item in sorted(items, key=lambda item: (cost(item), error(item))):
        if not best or error(item) < error(best[-1]):
            best.append(item)
    return best


def spread(items: Sequence[Item], number: int) -> list[Item]:
    """Return up to `number` evenly spaced items, both ends included."""
    if number >= len(items):
        return list(items)
    if number < 2:
        return list(items[:number])
    return [items[round(place * (len(items) - 1) / (number - 1))] for place in range(number)]


def best_within(items: Sequence[Item], limit: float, cost: Measure[Item], error: Measure[Item]) -> Item | None:
    """Return the item of least error within the budget, the cheaper of equals; None if there is none."""
    allowed = [item for item in items if cost(item) <= limit]
    return min(allowed, key=lambda item: (error(item), cost(item)), default=None)
