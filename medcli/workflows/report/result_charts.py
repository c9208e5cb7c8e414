"""Chart of what `tune` wrote, for its PNG and for a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from medcli.charts.plots import Point, Series, scatter
from medcli.errors import DataError
from medcli.workflows.report.json_access import Json, as_list, join, look_up, number, rounded, rows_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COST_LABELS = {"gmacs": "GMACs per image", "seconds": "seconds per image, on that machine"}
ERROR_LABELS = {"error": "relative error against dense", "fid": "FID (lower is better)"}
KINDS = {
    "full": ("full attention", "D"),
    "static": ("static", "o"),
    "dynamic": ("dynamic", "s"),
    "timed": ("timed", "s"),
}
"""Name and marker by kind of schedule."""


def plan_text(row: Json) -> str:
    """Describe a row of `tune`: calls and networks by progress."""
    names = [rounded(count) if number(count) else "full" for count in as_list(row.get("ladder"))]
    starts = ["", *(f" from {rounded(start)}" for start in as_list(row.get("at")))]
    networks = ", ".join(name + start for name, start in zip(names, starts, strict=False)) or "full"
    interval = as_list(row.get("interval"))
    guided = f", guided from {join(map(rounded, interval), ' to ')}" if interval else ""
    return f"{rounded(row.get('calls'))} calls: {networks}{guided}{', fitted' if row.get('fitted') is True else ''}"


def tuning_axes(result: Json) -> tuple[str, str]:
    """Keys of a row's cost and error: `gmacs` or `seconds`, `error` or `fid`."""
    cost = "seconds" if look_up(result, "budget", "unit") == "seconds" else "gmacs"
    return cost, "fid" if result.get("metric") == "fid" else "error"


def tuning_chart(result: Json) -> Callable[[Figure], None]:
    """Chart error against cost: all candidates, their front, the choice and the budget.

    Args:
        result: The content of `tuning.json`; rows without numbers are left out.

    Raises:
        DataError: If no candidate has numbers.
    """
    cost, metric = tuning_axes(result)
    rows = rows_of(result.get("candidates"))
    series = [
        Series(name=name, marker=marker, points=points)
        for kind, (name, marker) in KINDS.items()
        if (points := _points([row for row in rows if row.get("schedule") == kind], cost, metric))
    ]
    if not series:
        raise DataError(f"no candidates with {cost} and {metric}", hint="run medcli tune again")
    front = _points(rows_of(result.get("front")), cost, metric)
    series.append(Series(name="Pareto front", points=front, kind="reference"))
    chosen = result.get("chosen")
    if isinstance(chosen, Mapping) and (points := _points([chosen], cost, metric)):
        series.append(Series(name="chosen", points=points, kind="ring"))

    # A limit of calls is none on this axis.
    limit = number(look_up(result, "budget", "limit")) if look_up(result, "budget", "unit") == cost else None
    labels = {"x": COST_LABELS[cost], "y": ERROR_LABELS[metric]}
    lines = {} if limit is None else {"budget": limit}
    return lambda figure: scatter(figure.subplots(), series, vertical_lines=lines, **labels)


def _points(rows: Sequence[Json], cost: str, metric: str) -> tuple[Point, ...]:
    found = ((row, number(row.get(cost)), number(row.get(metric))) for row in rows)
    return tuple(Point(x=x, y=y, name=plan_text(row)) for row, x, y in found if x is not None and y is not None)
