"""Selection of the configurations to run from the replayed ones. Deterministic, torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medcli.tuning.pareto import front, spread
from medcli.tuning.space import FULL_ATTENTION, Configuration, Layers

Family = tuple[Layers, tuple[int, ...]]
"""Layers and ladder; configurations of a family differ only in their thresholds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """A configuration with its replayed cost and error."""

    configuration: Configuration
    cost: float
    """Cost of an image in the budget's unit."""
    error: float

    @property
    def family(self) -> Family:
        """Layers and ladder."""
        return self.configuration.layers, self.configuration.counts


def finalists(proposals: Sequence[Proposal], number: int, limit: float) -> list[Proposal]:
    """Select the proposals to run: full attention, the cheapest, half of the front, the best families in the budget.

    Args:
        proposals: All replayed configurations.
        number: Maximum number; the first two are always included.
        limit: The budget.
    """
    cheapest = min((one for one in proposals if not one.configuration.rho), key=_by_cost)
    dense = next(one for one in proposals if one.configuration == FULL_ATTENTION)
    best: dict[Family, Proposal] = {}
    for one in sorted(proposals, key=_by_error):
        if one.cost <= limit:
            best.setdefault(one.family, one)
    along = spread(front(proposals, lambda one: one.cost, lambda one: one.error), number // 2)
    return list(dict.fromkeys([dense, cheapest, *along, *best.values()]))[: max(number, 2)]


def _by_cost(one: Proposal) -> tuple[float, float, Configuration]:
    return one.cost, one.error, one.configuration


def _by_error(one: Proposal) -> tuple[float, float, Configuration]:
    return one.error, one.cost, one.configuration
