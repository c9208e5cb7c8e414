"""The picture of a tuning: what was run, its front, the budget and the choice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcli.runtime.files import atomic_path

AXES = {"gmacs": "GMACs an image, as the papers count", "ms": "milliseconds an image, on this machine"}
MARKS = {"full": "*", "static": "o", "dynamic": "s"}
DOTS_AN_INCH = 110


def draw_tuning(path: Path, result: Mapping[str, Any]) -> None:
    """Draw error or FID against cost.

    Args:
        path: The PNG, replaced if it is there.
        result: `TuneReport.to_json()`, as it stands in `tuning.json`.
    """
    from matplotlib.figure import Figure  # no pyplot: nothing global is touched

    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    metric, unit = result["metric"], result["budget"]["unit"]
    for kind, mark in MARKS.items():
        rows = [row for row in result["candidates"] if row["schedule"] == kind]
        if rows:
            axes.scatter(
                [row["cost"] for row in rows],
                [row[metric] for row in rows],
                marker=mark,
                s=60 if kind == "full" else 24,
                label="full attention" if kind == "full" else kind,
                zorder=3,
            )
    front = result["front"]
    axes.plot([row["cost"] for row in front], [row[metric] for row in front], color="grey", linewidth=1, label="front")
    chosen = result["chosen"]
    axes.scatter(
        [chosen["cost"]], [chosen[metric]], s=180, facecolors="none", edgecolors="tab:red", label="chosen", zorder=4
    )
    axes.axvline(result["budget"]["limit"], color="tab:red", linestyle=":", linewidth=1, label="budget")
    what = "FID (lower is better)" if metric == "fid" else "distance from the dense images, relative"
    axes.set(xlabel=AXES[unit], ylabel=what)
    axes.set_title(f"{result['model']}: {len(result['candidates'])} runs of {result['settings']['num_images']} images")
    axes.legend()
    with atomic_path(path, force=True) as temporary:
        figure.savefig(temporary, format="png", dpi=DOTS_AN_INCH, metadata={"Software": None})
