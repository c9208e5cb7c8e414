"""Budget of a tuning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Literal

from medcli.errors import ConfigError
from medcli.settings.analysis import TuneRequest

BudgetKind = Literal["saving", "gmacs", "calls", "seconds"]
UNITS: dict[BudgetKind, str] = {"saving": "gmacs", "gmacs": "gmacs", "calls": "calls", "seconds": "seconds"}
ROUNDING = 1e-9
"""Relative tolerance of comparisons with the budget: shares and sums are rounded."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Maximum cost of an image."""

    kind: BudgetKind
    value: float
    """Share of the baseline's GMACs saved, or GMACs, network calls, or seconds on this machine of an image."""

    @property
    def unit(self) -> str:
        """Unit of the limit: `gmacs`, `calls` or `seconds`."""
        return UNITS[self.kind]

    def limit(self, baseline: float) -> float:
        """Return the maximum cost of an image in the budget's unit, up to rounding.

        Args:
            baseline: GMACs of an image of the dense baseline.
        """
        return baseline * (1 - self.value) if self.kind == "saving" else self.value

    def allows(self, cost: float, baseline: float) -> bool:
        """Return whether a cost in the budget's unit is within it."""
        return cost <= self.limit(baseline) * (1 + ROUNDING)

    def out_of_reach(self, cheapest: float, baseline: float) -> ConfigError:
        """Build the error of a budget that no candidate meets, naming the nearest that one does.

        Args:
            cheapest: Cost of the cheapest candidate in the budget's unit.
            baseline: GMACs of an image of the dense baseline.
        """
        if self.kind == "saving":
            nearest = f"{math.floor(1e4 * (1 - cheapest / baseline)) / 100:g}%"
        else:
            nearest = rounded_up(cheapest, 3)
        return ConfigError(
            f"{self} is out of reach: the nearest possible is --{self.kind} {nearest}",
            hint="smaller networks and fewer mediators cost less: see medcli flops, and medcli bench for seconds",
        )

    def __str__(self) -> str:
        return f"--{self.kind} {100 * self.value:g}%" if self.kind == "saving" else f"--{self.kind} {self.value:g}"


def rounded_up(cost: float, digits: int) -> str:
    """Write a cost with this many significant digits, never below it: as a budget it allows the cost."""
    if not cost > 0:
        return f"{cost:g}"
    scale = Decimal(1).scaleb(Decimal(cost).adjusted() - digits + 1)
    return f"{float(Decimal(repr(cost)).quantize(scale, ROUND_CEILING)):.12g}"


def budget_of(request: TuneRequest) -> Budget | None:
    """Return the budget that was given; None: none.

    Raises:
        ConfigError: If several were given.
    """
    given: dict[BudgetKind, float | None] = {kind: getattr(request, kind) for kind in UNITS}
    budgets = [Budget(kind, value) for kind, value in given.items() if value is not None]
    if len(budgets) > 1:
        raise ConfigError(
            f"tune takes one budget, got {' and '.join(map(str, budgets))}",
            hint="use one of --saving 90%, --gmacs 0.5, --calls 12 and --seconds 0.5",
        )
    return budgets[0] if budgets else None
