"""Which of many replayed configurations deserve a run. Deterministic, torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean

from medcli.tuning.pareto import front, spread
from medcli.tuning.space import FULL_ATTENTION, Configuration, Layers

THRESHOLD_STEP = 0.85
"""Factor by which the last runs move a threshold."""
Family = tuple[Layers, tuple[int, ...]]
"""Layers and ladder: configurations that differ in their thresholds only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """A configuration, and what replays promise of it."""

    configuration: Configuration
    cost: float
    """Of an image, in the budget's unit."""
    error: float

    @property
    def family(self) -> Family:
        """Its layers and ladder."""
        return self.configuration.layers, self.configuration.counts


def first_round(proposals: Sequence[Proposal], number: int, limit: float) -> list[Proposal]:
    """Proposals to begin with: full attention, the cheapest, part of the front, the best of families in the budget.

    Args:
        proposals: All of them.
        number: How many at most; the first two come in any case.
        limit: The budget.
    """
    cheapest = min((one for one in proposals if not one.configuration.rho), key=_by_cost)
    dense = next(one for one in proposals if one.configuration == FULL_ATTENTION)
    best: dict[Family, Proposal] = {}
    for one in sorted(proposals, key=_by_error):
        if one.cost <= limit:
            best.setdefault(one.family, one)
    along = spread(front(proposals, lambda one: one.cost, lambda one: one.error), number // 2)
    return _first_of([dense, cheapest, *along, *best.values()], max(number, 2))


def second_round(
    proposals: Sequence[Proposal], measured: Mapping[Configuration, float], number: int, limit: float
) -> list[Proposal]:
    """Proposals to go on with: the best in the budget, once promises are corrected by what runs have shown.

    Replays misjudge a set of layers, or a ladder, by much the same factor whatever the thresholds: it is taken from
    the runs of the family, else from those with the same layers, else from all.

    Args:
        proposals: All of them.
        measured: Errors of those that were run.
        number: How many at most.
        limit: The budget.
    """
    ratios = {
        one: measured[one.configuration] / one.error
        for one in proposals
        if one.configuration in measured and one.error > 0
    }
    if not ratios or number < 1:
        return []

    def corrected(one: Proposal) -> float:
        own = [ratio for ran, ratio in ratios.items() if ran.family == one.family]
        alike = own or [ratio for ran, ratio in ratios.items() if ran.family[0] == one.family[0]]
        return one.error * fmean(alike or ratios.values())

    open_ones = [one for one in proposals if one.cost <= limit and one.configuration not in measured]
    return sorted(open_ones, key=lambda one: (corrected(one), _by_error(one)))[:number]


def neighbours(configuration: Configuration) -> list[Configuration]:
    """Configurations with one threshold moved a step down or up, where they still fall."""
    made = []
    for move, value in enumerate(configuration.rho):
        for factor in (THRESHOLD_STEP, 1 / THRESHOLD_STEP):
            rho = (*configuration.rho[:move], float(f"{value * factor:.3g}"), *configuration.rho[move + 1 :])
            if all(later < earlier for earlier, later in pairwise(rho)):
                made.append(replace(configuration, rho=rho))
    return made


def _first_of(proposals: Sequence[Proposal], number: int) -> list[Proposal]:
    """The first so many, each once."""
    return list(dict.fromkeys(proposals))[:number]


def _by_cost(one: Proposal) -> tuple[float, float, Configuration]:
    return one.cost, one.error, one.configuration


def _by_error(one: Proposal) -> tuple[float, float, Configuration]:
    return one.error, one.cost, one.configuration
