"""The picture of `schedule_comparison`: FID against cost, with error bars."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcli.runtime.files import atomic_path

MARKS = {"l1": ("dynamic, L1", "s", "tab:orange"), "l2": ("dynamic, L2", "^", "tab:green")}
DOTS_AN_INCH = 110


def draw_comparison(path: Path, result: Mapping[str, Any]) -> None:
    """Draw FID against GMACs: static counts as a line, dynamic schedules by distance, full attention as a level.

    Args:
        path: The PNG, replaced if it is there.
        result: `ComparisonReport.to_json()`, as it stands in `comparison.json`.
    """
    from matplotlib.figure import Figure  # no pyplot: nothing global is touched

    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    rows: list[dict[str, Any]] = result["rows"]
    dense = next(row for row in rows if row["schedule"] == "full")
    axes.axhline(dense["fid"], color="grey", linewidth=1, linestyle=":")
    axes.annotate(
        f"full attention, {dense['gmacs']:.3f} GMACs",
        (1, dense["fid"]),
        xycoords=axes.get_yaxis_transform(),
        xytext=(-4, 3),
        textcoords="offset points",
        ha="right",
        color="grey",
        fontsize="small",
    )
    _bars(axes, [row for row in rows if row["schedule"] == "static"], "static", "o", "tab:blue", line="-")
    for distance, (title, mark, colour) in MARKS.items():
        chosen = [row for row in rows if row["distance"] == distance]
        _bars(axes, sorted(chosen, key=lambda row: float(row["gmacs"])), title, mark, colour, line="none")
    for row in rows:
        if row["schedule"] == "static":
            count = row["mediators"][0]
            axes.annotate(f"n = {count}", (row["gmacs"], row["fid"]), xytext=(7, 5), textcoords="offset points")
    axes.set(xlabel="GMACs an image, as the papers count", ylabel="FID (lower is better)")
    axes.set_title(f"{result['num_images']} images, {len(result['seeds'])} seeds; bars: one standard error")
    axes.legend()
    with atomic_path(path, force=True) as temporary:
        figure.savefig(temporary, format="png", dpi=DOTS_AN_INCH, metadata={"Software": None})


def _bars(axes: Any, rows: list[dict[str, Any]], title: str, mark: str, colour: str, *, line: str) -> None:
    """One series of points with vertical error bars."""
    axes.errorbar(
        [row["gmacs"] for row in rows],
        [row["fid"] for row in rows],
        yerr=[row["fid_standard_error"] for row in rows],
        fmt=mark,
        linestyle=line,
        color=colour,
        capsize=3,
        label=title,
    )
