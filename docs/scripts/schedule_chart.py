"""Chart of `schedule_comparison.py`: FID against cost, with error bars."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcli.runtime.files import atomic_path

MARKS = {"l1": ("dynamic, L1", "s", "tab:orange"), "l2": ("dynamic, L2", "^", "tab:green")}
DOTS_PER_INCH = 110


def draw_comparison(path: Path, result: Mapping[str, Any]) -> None:
    """Plot FID against GMACs: static counts as a line, dynamic schedules by distance, full attention as a level.

    Args:
        path: The PNG, replaced if it exists.
        result: `ComparisonReport.to_json()`.
    """
    from matplotlib.figure import Figure  # no pyplot: it keeps global state

    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    rows: list[dict[str, Any]] = result["rows"]
    dense = next(row for row in rows if row["schedule"] == "full")
    axes.axhline(dense["fid"], color="grey", linewidth=1, linestyle=":")
    axes.text(
        1, dense["fid"], f"full attention, {dense['gmacs']:.3f} GMACs ",
        transform=axes.get_yaxis_transform(), ha="right", va="bottom", color="grey", fontsize="small",
    )  # fmt: skip
    static = [row for row in rows if row["schedule"] == "static"]
    _plot(axes, static, "static", "o", "tab:blue", line="-")
    for distance, (title, mark, colour) in MARKS.items():
        chosen = [row for row in rows if row["distance"] == distance]
        _plot(axes, sorted(chosen, key=lambda row: float(row["gmacs"])), title, mark, colour, line="none")
    for row in static:
        place = (row["gmacs"], row["fid"])
        axes.annotate(f"n = {row['mediators'][0]}", place, xytext=(7, 5), textcoords="offset points")
    axes.set(xlabel="GMACs per image", ylabel="FID (lower is better)")
    axes.set_title(f"{result['num_images']} images, {len(result['seeds'])} seeds; bars: one standard error")
    axes.legend()
    with atomic_path(path, force=True) as temporary:
        figure.savefig(temporary, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})


def _plot(axes: Any, rows: list[dict[str, Any]], title: str, mark: str, colour: str, *, line: str) -> None:
    """Plot one series of points with vertical error bars."""
    gmacs, fid, error = ([row[name] for row in rows] for name in ("gmacs", "fid", "fid_standard_error"))
    axes.errorbar(gmacs, fid, yerr=error, fmt=mark, linestyle=line, color=colour, capsize=3, label=title)
