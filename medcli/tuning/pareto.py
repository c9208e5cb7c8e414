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
