"""Budget of a tuning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from medcli.errors import ConfigError
from medcli.settings.analysis import TuneRequest
from medcli.tuning.space import rounded_up

BudgetKind = Literal["gmacs", "ms", "saving"]
UNITS = {"gmacs": "GMACs an image", "ms": "ms an image"}
EXAMPLES = "--gmacs 2.95, --ms 40 or --saving 5%"
ROUNDING = 1e-9
"""Relative tolerance of comparisons with the budget: means over images and sums over steps are rounded."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Maximum cost of an image.

    Raises:
        ConfigError: If the value is out of range.
    """

    kind: BudgetKind
    value: float
    """GMACs of an image in the papers' convention, milliseconds of an image on this machine, or percent saved."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(BudgetKind):
            raise ConfigError(f"unknown budget {self.kind!r}", hint=f"use {EXAMPLES}")
        top = 100 if self.kind == "saving" else math.inf
        if not 0 < self.value < top:
            raise ConfigError(
                f"--{self.kind} {self.value:g} is no budget: expected a number above 0"
                + (" and below 100 percent" if self.kind == "saving" else ""),
                hint=f"use {EXAMPLES}",
            )

    @property
    def unit(self) -> str:
        """Unit of costs: `gmacs` or `ms`."""
        return "ms" if self.kind == "ms" else "gmacs"

    def limit(self, dense: float) -> float:
        """Return the maximum cost of an image in the budget's unit, as it was given.

        Args:
            dense: Cost of an image under full attention.
        """
        return dense * (1 - self.value / 100) if self.kind == "saving" else self.value

    def tolerant_limit(self, dense: float) -> float:
        """Return the largest cost that is within the budget up to rounding."""
        return self.limit(dense) * (1 + ROUNDING)

    def check(self, cheapest: float, dense: float) -> None:
        """Check that some configuration meets the budget and full attention does not.

        Args:
            cheapest: Cost of an image under the cheapest configuration.
            dense: The same under full attention.

        Raises:
            ConfigError: Naming the reachable range.
        """
        limit, unit = self.limit(dense), UNITS[self.unit]
        if cheapest >= dense:
            raise ConfigError(
                f"no configuration costs less than full attention here ({cheapest:.5g} against {dense:.5g} {unit})",
                hint="mediators pay where tokens are many: see medcli flops, and medcli bench for seconds",
            )
        if cheapest <= self.tolerant_limit(dense) < dense:
            return
        if self.kind == "saving":
            reach = f"--saving up to {math.floor(1000 * (1 - cheapest / dense)) / 10:g}%"
        else:
            reach = f"--{self.unit} from {rounded_up(cheapest, 4):g} to below {dense:.5g}"
        if limit < cheapest:
            raise ConfigError(
                f"{self} is out of reach: the cheapest configuration takes {cheapest:.5g} {unit}",
                hint=f"reachable here: {reach}" + ("" if self.kind == "saving" else "; fewer --steps cost less, too"),
            )
        raise ConfigError(f"{self} allows full attention ({dense:.5g} {unit})", hint=f"reachable here: {reach}")

    def __str__(self) -> str:
        return f"--{self.kind} {self.value:g}{'%' if self.kind == 'saving' else ''}"


def budget_of(request: TuneRequest) -> Budget:
    """Return the one budget that was given.

    Raises:
        ConfigError: If none was, or several.
    """
    given: dict[BudgetKind, float | None] = {"gmacs": request.gmacs, "ms": request.ms, "saving": request.saving}
    budgets = [Budget(kind, value) for kind, value in given.items() if value is not None]
    if len(budgets) != 1:
        found = " and ".join(map(str, budgets)) or "none"
        raise ConfigError(f"tune needs one budget, got {found}", hint=f"use {EXAMPLES}")
    return budgets[0]
