"""Pictures of an analysis: redundancy by layer, and the effect of thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medcli.charts.figure import QUIET, RULE, SERIES, save_png
from medcli.charts.plots import heat_map
from medcli.engine.threshold_replay import QUANTILES, Trigger, quantiles, relative
from medcli.workflows.analyze.attention import AttentionMap, Floats

# Dimension key: D layers, I images, L solver steps, Q quantiles.

CURVE_COLOUR, MARK_COLOUR = SERIES[:2]
MIN_DECADE = 1e-4
"""Curves are cut below this share of the baseline: no threshold is set there."""


def draw_map(path: Path, seen: AttentionMap, progress: Sequence[float], title: str) -> None:
    """Draw layers by progress: divergence between queries, and the number of distinct queries.

    Args:
        path: The PNG file.
        seen: The map.
        progress: Progress of each observed step.
        title: Heading of the picture.
    """
    tokens = " or ".join(map(str, sorted(set(seen.num_tokens), reverse=True)))

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        heat_map(left, seen.redundancy_DL, progress, label="nats, at most ln 2 = 0.693")
        left.set_title("Jensen-Shannon divergence of queries (dark: redundant)")
        heat_map(right, seen.distinct_DL, progress, label="queries, most demanding head")
        right.set(title=f"Distinct queries, of {tokens}", ylabel="")

    save_png(path, draw, title=title, size=(11, 2.4 + 0.22 * max(len(seen.redundancy_DL), 8)))


def draw_change(
    path: Path,
    distances: Mapping[str, Floats],
    found: Mapping[str, Sequence[Trigger]],
    warmup_steps: int,
    title: str,
) -> None:
    """Draw the change of the latent at each step, and below it when each threshold moves how many images.

    Args:
        path: The PNG file.
        distances: (I, L) by name of the distance.
        found: Moves that each threshold triggers, by name of the distance.
        warmup_steps: Distances in the baseline.
        title: Heading of the picture.
    """

    def draw(figure: Any) -> None:
        grid = figure.subplots(2, len(distances), sharex=True, squeeze=False)
        for column, (name, distance_IL) in enumerate(distances.items()):
            _curves(grid[0, column], relative(distance_IL, warmup_steps), found[name], warmup_steps)
            grid[0, column].set_title(f"{name.upper()} distance")
            _switches(grid[1, column], found[name], distance_IL.shape[1])
        grid[0, 0].set_ylabel("change of a step / baseline")
        grid[1, 0].set_ylabel("threshold rho")

    save_png(path, draw, title=title, size=(11, 7))


def _curves(axes: Any, parts_IL: Floats, found: Sequence[Trigger], warmup_steps: int) -> None:
    spread_QL = np.maximum(quantiles(parts_IL), MIN_DECADE)
    steps = range(parts_IL.shape[1])
    low, middle, high = 0, len(QUANTILES) // 2, -1
    percent = f"{100 * QUANTILES[low]:g} to {100 * QUANTILES[high]:g} % of the images"
    axes.fill_between(steps, spread_QL[low], spread_QL[high], color=CURVE_COLOUR, alpha=0.25, lw=0, label=percent)
    axes.plot(steps, spread_QL[middle], color=CURVE_COLOUR, label="median")
    axes.axvspan(0.5, warmup_steps + 0.5, color=RULE, lw=0, label="warm-up (baseline)")
    for trigger in found:
        axes.axhline(trigger.rho, color=QUIET, lw=0.6, ls=":")
    axes.set_yscale("log")
    axes.legend(loc="lower left", fontsize="small")


def _switches(axes: Any, found: Sequence[Trigger], num_steps: int) -> None:
    """Draw one line per threshold, from the step by which 5 % of the images have moved to that of 95 %."""
    for place, trigger in enumerate(found):
        low, middle, high = (trigger.quantile(level) for level in (QUANTILES[0], 0.5, QUANTILES[-1]))
        if low is not None:
            ends = [low, num_steps - 1 if high is None else high]  # some never move: extend the line to the end
            axes.plot(ends, [place, place], color=CURVE_COLOUR, lw=5, alpha=0.4, solid_capstyle="butt")
        if middle is not None:
            axes.plot(middle, place, "o", color=MARK_COLOUR, ms=5)
        axes.annotate(
            f"{100 * trigger.share:.0f} %", (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8
        )
    axes.annotate("ever move", (1.01, 1.02), xycoords="axes fraction", fontsize=8)
    axes.set_yticks(range(len(found)), [f"{trigger.rho:g}" for trigger in found])
    axes.set(xlabel="solver step by which 5 to 95 % have moved (dot: 50 %)", xlim=(0, num_steps - 1))
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
