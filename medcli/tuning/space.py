"""Space of configurations: layers with mediators, ladder, thresholds. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from medcli.ladder import listing
from medcli.schedule.spec import FULL, DistanceName, Schedule, static

Layers = tuple[int, ...]
MOST_LAYER_SETS = 15
"""Maximum number of layer sets that are measured: all subsets of four layers."""


@dataclass(frozen=True, slots=True, order=True)
class NetworkVariant:
    """A network with mediators of one count in some layers, full attention in the others."""

    layers: Layers
    """Rising; empty: full attention everywhere."""
    count: int
    """Mediator count; 0 if and only if `layers` is empty."""

    @property
    def name(self) -> str:
        """File name."""
        return f"n{self.count}-layers-{'-'.join(map(str, self.layers))}" if self.layers else "dense"

    @property
    def words(self) -> str:
        """Description for messages."""
        if not self.layers:
            return "full attention"
        return f"{self.count} mediators in blocks {listing(self.layers)}"


DENSE = NetworkVariant((), 0)


@dataclass(frozen=True, slots=True, order=True)
class Configuration:
    """Layers, ladder and thresholds."""

    layers: Layers
    """Blocks with mediators, rising; empty: full attention."""
    counts: tuple[int, ...]
    """The ladder; one count is a static schedule, (0,) full attention."""
    rho: tuple[float, ...] = ()
    """Falling thresholds, one fewer than the counts."""

    @property
    def variants(self) -> tuple[NetworkVariant, ...]:
        """Network at each ladder index."""
        return tuple(NetworkVariant(self.layers, count) for count in self.counts)

    @property
    def name(self) -> str:
        """File name, unique to the configuration."""
        if not self.layers:
            return "dense"
        rho = f"-rho-{listing_of(self.rho)}" if self.rho else ""
        return f"layers-{listing(self.layers)}-n-{listing(self.counts)}{rho}".replace(",", "_")

    @property
    def words(self) -> str:
        """Description for messages."""
        if not self.layers:
            return "full attention"
        return f"{listing(self.counts)} mediators in blocks {listing(self.layers)}"

    def schedule(self, warmup_steps: int, distance: DistanceName) -> Schedule:
        """Build its schedule.

        Args:
            warmup_steps: Number of distances in the baseline.
            distance: Distance that the thresholds apply to.
        """
        if not self.layers:
            return FULL
        if len(self.counts) == 1:
            return static(self.counts[0])
        return Schedule(kind="dynamic", counts=self.counts, rho=self.rho, warmup_steps=warmup_steps, distance=distance)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        kind = "full" if not self.layers else "static" if len(self.counts) == 1 else "dynamic"
        ladder = [count for count in self.counts if count]
        return {"layers": list(self.layers), "ladder": ladder, "rho": list(self.rho), "schedule": kind}


FULL_ATTENTION = Configuration((), (0,))


def listing_of(values: Sequence[float]) -> str:
    """Format thresholds for the command line, without loss."""
    return ",".join(repr(value) for value in values)


def rounded_up(value: float, digits: int) -> float:
    """Round a positive number up to this many significant digits, to a strictly larger value."""
    unit = 10.0 ** (math.floor(math.log10(value)) + 1 - digits)
    return float(f"{math.ceil(value * (1 + 1e-9) / unit) * unit:.{digits}g}")


def layer_sets(order: Sequence[int]) -> list[Layers]:
    """Choose the sets of layers to measure.

    Args:
        order: The layers, least sensitive to mediators first.

    Returns:
        All non-empty subsets if there are few; otherwise prefixes of the order, of evenly spaced sizes.
    """
    depth = len(order)
    if 2**depth - 1 <= MOST_LAYER_SETS:
        return [tuple(sorted(chosen)) for size in range(1, depth + 1) for chosen in combinations(sorted(order), size)]
    sizes = {1 + round(place * (depth - 1) / (MOST_LAYER_SETS - 1)) for place in range(MOST_LAYER_SETS)}
    return [tuple(sorted(order[:size])) for size in sorted(sizes)]


def ladders(counts: Sequence[int]) -> list[tuple[int, ...]]:
    """List every non-empty subset of a ladder, the shortest first."""
    rising = sorted(counts)
    return [chosen for size in range(1, len(rising) + 1) for chosen in combinations(rising, size)]


def configurations(
    sets: Sequence[Layers], counts: Sequence[int], rhos_of: Callable[[NetworkVariant], Sequence[float]]
) -> list[Configuration]:
    """List each set of layers with each ladder and each falling choice of thresholds.

    Args:
        sets: Sets of layers.
        counts: Mediator counts to build ladders from.
        rhos_of: Returns the thresholds to try if images start with this network.
    """
    made = [FULL_ATTENTION]
    for layers in sets:
        for ladder in ladders(counts):
            grid = sorted(rhos_of(NetworkVariant(layers, ladder[0])), reverse=True) if len(ladder) > 1 else []
            made += [Configuration(layers, ladder, rho) for rho in combinations(grid, len(ladder) - 1)]
    return made
