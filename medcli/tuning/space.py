"""What can be chosen: where mediators stand, which counts an image goes through, when it moves. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random
from typing import Any

from medcli.config import listing
from medcli.schedule.spec import FULL, DistanceName, Schedule, static

Layers = tuple[int, ...]
MOST_LAYER_SETS = 15
"""Sets of layers that are measured at most: all subsets of four layers."""
LEAST_RANDOM_RHO = 0.02
"""Smallest threshold that random configurations draw."""


@dataclass(frozen=True, slots=True, order=True)
class NetworkVariant:
    """A network: mediators of one count in some layers, full attention in the others."""

    layers: Layers
    """Rising; empty: full attention everywhere."""
    count: int
    """0 exactly when `layers` is empty."""

    @property
    def name(self) -> str:
        """A name for files."""
        return f"n{self.count}-layers-{'-'.join(map(str, self.layers))}" if self.layers else "dense"


DENSE = NetworkVariant((), 0)


@dataclass(frozen=True, slots=True, order=True)
class Configuration:
    """One answer to what layers, which ladder and which thresholds."""

    layers: Layers
    """Blocks with mediators, rising; empty: full attention."""
    counts: tuple[int, ...]
    """The ladder; one count is a static schedule, (0,) full attention."""
    rho: tuple[float, ...] = ()
    """Falling thresholds, one fewer than the counts."""

    @property
    def variants(self) -> tuple[NetworkVariant, ...]:
        """The network of each ladder index."""
        return tuple(NetworkVariant(self.layers, count) for count in self.counts)

    @property
    def name(self) -> str:
        """A name for files and people: equal names are equal configurations."""
        if not self.layers:
            return "dense"
        rho = f"-rho-{listing_of(self.rho)}" if self.rho else ""
        return f"layers-{listing(self.layers)}-n-{listing(self.counts)}{rho}".replace(",", "_")

    def schedule(self, warmup_steps: int, distance: DistanceName) -> Schedule:
        """How its images go through the counts.

        Args:
            warmup_steps: Distances in the baseline.
            distance: What the thresholds are compared with.
        """
        if not self.layers:
            return FULL
        if len(self.counts) == 1:
            return static(self.counts[0])
        return Schedule(kind="dynamic", counts=self.counts, rho=self.rho, warmup_steps=warmup_steps, distance=distance)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        kind = "full" if not self.layers else "static" if len(self.counts) == 1 else "dynamic"
        ladder = [count for count in self.counts if count]
        return {"layers": list(self.layers), "ladder": ladder, "rho": list(self.rho), "schedule": kind}


FULL_ATTENTION = Configuration((), (0,))


def listing_of(values: Sequence[float]) -> str:
    """Thresholds as they are written on the command line; reads back as the same numbers."""
    return ",".join(repr(value) for value in values)


def rounded_up(value: float, digits: int) -> float:
    """The next number above a positive one that so many digits can write."""
    unit = 10.0 ** (math.floor(math.log10(value)) + 1 - digits)
    return float(f"{math.ceil(value * (1 + 1e-9) / unit) * unit:.{digits}g}")


def layer_sets(order: Sequence[int]) -> list[Layers]:
    """Which sets of layers are worth measuring.

    Args:
        order: The layers to choose from, the one that minds mediators least first.

    Returns:
        All subsets but the empty one where there are few. Else the first so many of the order, sizes spread evenly
        from one layer to all.
    """
    depth = len(order)
    if 2**depth - 1 <= MOST_LAYER_SETS:
        return [tuple(sorted(chosen)) for size in range(1, depth + 1) for chosen in combinations(sorted(order), size)]
    sizes = {1 + round(place * (depth - 1) / (MOST_LAYER_SETS - 1)) for place in range(MOST_LAYER_SETS)}
    return [tuple(sorted(order[:size])) for size in sorted(sizes)]


def ladders(counts: Sequence[int]) -> list[tuple[int, ...]]:
    """Every part of a ladder, the shortest first."""
    rising = sorted(counts)
    return [chosen for size in range(1, len(rising) + 1) for chosen in combinations(rising, size)]


def configurations(
    sets: Sequence[Layers], counts: Sequence[int], rhos_of: Callable[[NetworkVariant], Sequence[float]]
) -> list[Configuration]:
    """All that is considered: each set of layers with each ladder and each falling choice of thresholds.

    Args:
        sets: Sets of layers.
        counts: Counts to build ladders from.
        rhos_of: Thresholds worth trying where images start with this network.
    """
    made = [FULL_ATTENTION]
    for layers in sets:
        for ladder in ladders(counts):
            grid = sorted(rhos_of(NetworkVariant(layers, ladder[0])), reverse=True) if len(ladder) > 1 else []
            made += [Configuration(layers, ladder, rho) for rho in combinations(grid, len(ladder) - 1)]
    return made


def random_configuration(random: Random, layers: Sequence[int], counts: Sequence[int]) -> Configuration:
    """Draw layers, ladder and thresholds, each possible set of layers and ladder with equal chance."""
    chosen: Layers = ()
    ladder: tuple[int, ...] = ()
    while not chosen:
        chosen = tuple(layer for layer in sorted(layers) if random.random() < 0.5)
    while not ladder:
        ladder = tuple(count for count in sorted(counts) if random.random() < 0.5)
    while True:
        rho = sorted((round(random.uniform(LEAST_RANDOM_RHO, 1), 3) for _ in ladder[1:]), reverse=True)
        if len(set(rho)) == len(rho):
            return Configuration(chosen, ladder, tuple(rho))
