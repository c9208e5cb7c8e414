"""The pictures of an analysis: the redundancy map, and what thresholds do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medcli.engine.threshold_replay import QUANTILES, Trigger, quantiles, relative
from medcli.workflows.analyze.attention import AttentionMap, Floats

# Dimension key: D layers, I images, L solver steps, Q quantiles.

MAP_COLOURS = "cividis"
"""Rises in lightness throughout, and reads alike for the colour-blind."""
DISTANCE_NAMES = {"l1": "L1: mean absolute change", "l2": "L2: mean squared change"}
CURVE_COLOUR, MARK_COLOUR = "#0072b2", "#d55e00"
"""Blue and vermilion of Okabe and Ito: told apart by all readers, and in grey."""
DPI = 120
MIN_DECADE = 1e-4
"""Curves below this part of the baseline are cut: no threshold is set there."""


def draw_map(path: Path, seen: AttentionMap, progress: Sequence[float], title: str) -> None:
    """Draw layers by progress: divergence between queries, and how many of them really differ.

    Args:
        path: Where the PNG goes.
        seen: The map.
        progress: Of each watched step.
        title: What was analysed.
    """
    from matplotlib.figure import Figure  # no pyplot: nothing global is touched

    num_layers = len(seen.redundancy_DL)
    figure = Figure(figsize=(11, 2.4 + 0.22 * max(num_layers, 8)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _heat(figure, left, seen.redundancy_DL, progress, "nats, at most ln 2 = 0.693")
    left.set(ylabel="layer", title="Jensen-Shannon divergence of queries (dark: redundant)")
    _heat(figure, right, seen.distinct_DL, progress, "queries, most demanding head")
    right.set_title(f"Queries that really differ, of {_counts(seen.num_tokens)}")
    figure.suptitle(title)
    _save(figure, path)


def _heat(figure: Any, axes: Any, values_DL: Floats, progress: Sequence[float], label: str) -> None:
    edges = _edges(progress)
    mesh = axes.pcolormesh(edges, np.arange(len(values_DL) + 1) - 0.5, values_DL, cmap=MAP_COLOURS)
    figure.colorbar(mesh, ax=axes, label=label)
    axes.set(xlabel="progress (0 noise, 1 image)")
    step = max(1, -(-len(values_DL) // 14))
    axes.set_yticks(range(0, len(values_DL), step))
    axes.set_ylim(len(values_DL) - 0.5, -0.5)


def _edges(places: Sequence[float]) -> Floats:
    """Borders of cells around places in [0, 1], half-way between neighbours."""
    place_L = np.asarray(places, dtype=np.float64)
    return np.concatenate([[0.0], (place_L[1:] + place_L[:-1]) / 2, [1.0]])


def _counts(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, sorted(set(numbers), reverse=True)))


def draw_change(
    path: Path,
    distances: Mapping[str, Floats],
    found: Mapping[str, Sequence[Trigger]],
    warmup_steps: int,
    title: str,
) -> None:
    """Draw how the change of the latent falls, and below it when each threshold moves how many images.

    Args:
        path: Where the PNG goes.
        distances: (I, L) by name of the distance.
        found: What each threshold triggers, by name of the distance.
        warmup_steps: Distances in the baseline.
        title: What was analysed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    grid = figure.subplots(2, len(distances), sharex=True, squeeze=False)
    for column, (name, distance_IL) in enumerate(distances.items()):
        _curves(grid[0, column], relative(distance_IL, warmup_steps), found[name], warmup_steps)
        grid[0, column].set_title(DISTANCE_NAMES[name])
        _switches(grid[1, column], found[name], distance_IL.shape[1])
    grid[0, 0].set_ylabel("change of a step / baseline")
    grid[1, 0].set_ylabel("threshold rho")
    figure.suptitle(title)
    _save(figure, path)


def _curves(axes: Any, parts_IL: Floats, found: Sequence[Trigger], warmup_steps: int) -> None:
    spread_QL = np.maximum(quantiles(parts_IL), MIN_DECADE)
    steps = range(parts_IL.shape[1])
    low, middle, high = 0, len(QUANTILES) // 2, -1
    percent = f"{100 * QUANTILES[low]:g} to {100 * QUANTILES[high]:g} % of the images"
    axes.fill_between(steps, spread_QL[low], spread_QL[high], color=CURVE_COLOUR, alpha=0.25, lw=0, label=percent)
    axes.plot(steps, spread_QL[middle], color=CURVE_COLOUR, label="median")
    axes.axvspan(0.5, warmup_steps + 0.5, color="0.85", lw=0, label="warm-up, sets the baseline")
    for trigger in found:
        axes.axhline(trigger.rho, color="0.5", lw=0.6, ls=":")
    axes.set_yscale("log")
    axes.legend(loc="lower left", fontsize="small")


def _switches(axes: Any, found: Sequence[Trigger], num_steps: int) -> None:
    """A line a threshold: from where 5 % of the images have moved to where 95 % have."""
    for place, trigger in enumerate(found):
        low, middle, high = (trigger.quantile(level) for level in (QUANTILES[0], 0.5, QUANTILES[-1]))
        if low is not None:
            ends = [low, num_steps - 1 if high is None else high]  # some never move: the line runs to the end
            axes.plot(ends, [place, place], color=CURVE_COLOUR, lw=5, alpha=0.4, solid_capstyle="butt")
        if middle is not None:
            axes.plot(middle, place, "o", color=MARK_COLOUR, ms=5)
        axes.annotate(
            f"{100 * trigger.share:.0f} %", (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8
        )
    axes.annotate("ever move", (1.01, 1.02), xycoords="axes fraction", fontsize=8)
    axes.set_yticks(range(len(found)), [f"{trigger.rho:g}" for trigger in found])
    axes.set(xlabel="solver step by which 5 to 95 % have moved (dot: half)", xlim=(0, num_steps - 1))
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.grid(axis="x", color="0.9")


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None})
