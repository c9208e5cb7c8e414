"""What `medcli analyze`, `medcli tune` and comparisons of schedules found, as sections of a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from medcli.errors import DataError
from medcli.pages.heatmap import heat_map
from medcli.pages.page import Figure, Section, Table, legend_of
from medcli.pages.scatter import Point, Series, scatter
from medcli.workflows.report.commands import analyze_command
from medcli.workflows.report.json_access import (
    Json,
    as_list,
    checkpoint_facts,
    listed,
    look_up,
    number,
    numbers,
    rows_of,
    shown,
    text,
)

ANALYSIS, TUNING, COMPARISON = "medcli-analysis", "medcli-tuning", "medcli-schedule-comparison"
MOST_CELLS = 50_000
"""More cells than any analysis has: a file that says so is damaged."""
MOST_COMMANDS = 12
"""Lines of the front that are written out; all candidates are in the file."""
LN_2 = 0.6931471805599453
CLAIMS = {"redundant_early": "High redundancy early", "falls_with_progress": "Redundancy falls with progress"}


def analysis_section(name: str, found: Json, anchor: str) -> Section:
    """The redundancy map, what was observed, what is suggested, and what thresholds would do.

    Raises:
        DataError: If the map is damaged.
    """
    figures = (_map(name, found),) if found.get("redundancy") is not None else ()
    made_by = analyze_command(str(Path(name).parent), found)
    lead = f"{text(found.get('model'))}: {shown(found.get('num_images'))} images, {shown(found.get('num_steps'))} steps"
    facts = [
        (claim, f"{'yes' if look_up(found, 'observations', key, 'holds') is True else 'no'}. {said}")
        for key, claim in CLAIMS.items()
        if isinstance(said := look_up(found, "observations", key, "text"), str)
    ]
    if isinstance(reason := look_up(found, "suggestion", "reason"), str):
        layers, counts = (as_list(look_up(found, "suggestion", key)) for key in ("layers", "mediators"))
        facts.append(("Suggested", f"layers {listed(layers)}; mediators {listed(counts)}: {reason}"))
    facts += checkpoint_facts(found.get("settings"))
    return Section(
        title=f"Redundancy: {name}",
        anchor=anchor,
        lead=f"{lead}.",
        facts=tuple(facts),
        figures=figures,
        tables=tuple(_thresholds(found)),
        commands=tuple(line for line in (made_by, found.get("convert")) if isinstance(line, str)),
    )


def _map(name: str, found: Json) -> Figure:
    places = numbers(found.get("progress"), f"{name}: progress")
    lines = [numbers(line, f"{name}: redundancy") for line in as_list(found.get("redundancy"))]
    is_rising = all(low < high for low, high in zip((-1.0, *places), (*places, 1.0 + 1e-9), strict=True))
    if not lines or not is_rising or {len(line) for line in lines} != {len(places)}:
        raise DataError(f"{name}: redundancy is no layers by progress", hint="run medcli analyze again")
    if len(lines) * len(places) > MOST_CELLS:
        raise DataError(
            f"{name}: {len(lines)} layers by {len(places)} steps are too many", hint="analyze fewer --points"
        )
    flat = [value for line in lines for value in line]
    highest = max(max(flat), 1e-9)
    says = (
        f"Map of {len(lines)} layers by {len(places)} points of the way: divergence between the attention of different "
        f"queries, from {min(flat):.3g} to {max(flat):.3g} nats."
    )
    return Figure(
        svg=heat_map(lines, places, highest=highest, says=says),
        title="How much queries differ, in nats",
        caption=f"Jensen-Shannon divergence between the attention of different queries, at most ln 2 = {LN_2:.3f}. "
        "Dark: redundant.",
    )


def _thresholds(found: Json) -> list[Table]:
    """What thresholds would trigger: a row each, by kind of distance side by side."""
    distances = look_up(found, "latent_change", "distances")
    names = sorted(map(str, distances)) if isinstance(distances, Mapping) else []
    by_rho: dict[float, dict[str, Json]] = {}
    for name in names:
        for row in rows_of(look_up(distances, name, "thresholds")):
            if (rho := number(row.get("rho"))) is not None:
                by_rho.setdefault(rho, {})[name] = row
    if not by_rho:
        return []
    headings = [f"{name.upper()}: {what}" for name in names for what in ("images that move", "mean step")]
    rows = tuple(
        (f"{rho:g}", *(cell for name in names for cell in _triggered(by_rho[rho].get(name, {}))))
        for rho in sorted(by_rho, reverse=True)
    )
    caption = "What each threshold on the change of a step would trigger."
    return [Table(headings=("rho", *headings), rows=rows, caption=caption)]


def _triggered(row: Json) -> tuple[str, str]:
    return _percent(row.get("share")), shown(row.get("mean_step"), 3)


def _percent(share: object) -> str:
    found = number(share)
    return "-" if found is None else f"{100 * found:.0f} %"


def tuning_section(name: str, found: Json, anchor: str) -> Section:
    """What was run, its front, the choice and its commands.

    Raises:
        DataError: If it holds no candidates.
    """
    metric = "fid" if found.get("metric") == "fid" else "error"
    axis = "FID" if metric == "fid" else "error, relative to dense"
    unit = "ms" if look_up(found, "budget", "unit") == "ms" else "GMACs"
    cost = "ms" if unit == "ms" else "gmacs"

    def points(rows: Sequence[Json]) -> tuple[Point, ...]:
        made = ((row, number(row.get(cost)), number(row.get(metric))) for row in rows)
        return tuple(Point(x=x, y=y, name=configuration(row)) for row, x, y in made if x is not None and y is not None)

    rows, front = rows_of(found.get("candidates")), rows_of(found.get("front"))
    chosen = [found["chosen"]] if isinstance(found.get("chosen"), Mapping) else []
    if not points(rows):
        raise DataError(f"{name} holds no candidates with {cost} and {metric}", hint="run medcli tune again")
    series = [Series(name="run", points=points(rows)), Series(name="front", points=points(front), is_line=True)]
    series += [Series(name="chosen", points=points(chosen))] if points(chosen) else []
    says = f"{len(rows)} configurations, {axis} against {unit} an image; {len(front)} of them are on the front."
    figure = Figure(
        svg=scatter(series, names=(f"{unit} an image", axis), says=says),
        title="Error against cost",
        caption="Each dot is a configuration that was run; nothing that was run beats those on the line in both.",
        legend=legend_of([one.name for one in series]),
    )
    best = chosen or front
    commands = [row.get(key) for row in best[:MOST_COMMANDS] for key in ("convert_command", "command")]
    return Section(
        title=f"Tuning: {name}",
        anchor=anchor,
        lead=f"{text(found.get('model'))}: {_budget(found)}{len(rows)} configurations run, "
        f"{shown(found.get('num_replayed'))} replayed.",
        figures=(figure,),
        facts=tuple(checkpoint_facts(found.get("settings"))),
        tables=(_front(front, cost, unit, metric, axis),),
        commands=tuple(command for command in commands if isinstance(command, str)),
    )


def _budget(found: Json) -> str:
    kind, value = text(look_up(found, "budget", "kind"), ""), shown(look_up(found, "budget", "value"))
    return f"budget {kind} {value}; " if kind else ""


def configuration(row: Json) -> str:
    """A configuration in words."""
    if row.get("schedule") == "full":
        return "full attention"
    counts, rho = listed(as_list(row.get("ladder") or row.get("mediators"))), as_list(row.get("rho"))
    layers = f"layers {listed(as_list(row.get('layers')))}: " if row.get("layers") else ""
    return f"{layers}{counts} mediators" + (f", thresholds {listed(rho)}" if rho else "")


def _front(rows: Sequence[Json], cost: str, unit: str, metric: str, axis: str) -> Table:
    cells = tuple((configuration(row), shown(row.get(cost)), shown(row.get(metric))) for row in rows)
    return Table(headings=("front", f"{unit} an image", axis), rows=cells, caption="What nothing that was run beats.")


def comparison_section(name: str, found: Json, anchor: str) -> Section:
    """Schedules at their cost, with the scatter between seeds.

    Raises:
        DataError: If it holds no rows.
    """
    rows = rows_of(found.get("rows"))
    by_kind = {kind: [row for row in rows if row.get("schedule") == kind] for kind in ("full", "static", "dynamic")}
    series = [
        Series(name=kind, points=points, is_line=kind == "static")
        for kind, own in by_kind.items()
        if (points := _compared(own))
    ]
    if not series:
        raise DataError(f"{name} holds no rows with gmacs and fid", hint="run the comparison again")
    num_seeds = len(as_list(found.get("seeds")))
    figure = Figure(
        svg=scatter(
            series,
            names=("GMACs an image, as the papers count", "FID"),
            says=f"FID against cost of {len(rows)} schedules over {num_seeds} seeds; the table below has the numbers.",
        ),
        title="Dynamic and static schedules",
        caption="Bars: one standard error over seeds.",
        legend=legend_of([one.name for one in series]),
    )
    cells = tuple(
        (text(row.get("variant")), shown(row.get("gmacs")), _with_error(row, "fid"), _with_error(row, "against_static"))
        for row in rows
    )
    headings = ("schedule", "GMACs an image", "FID", "FID less static at equal cost")
    return Section(
        title=f"Schedules: {name}",
        anchor=anchor,
        lead=f"{shown(found.get('num_images'))} images, {num_seeds} seeds, against {text(found.get('reference'))}.",
        figures=(figure,),
        tables=(Table(headings=headings, rows=cells),),
    )


def _compared(rows: Sequence[Json]) -> tuple[Point, ...]:
    made = ((row, number(row.get("gmacs")), number(row.get("fid"))) for row in rows)
    return tuple(
        Point(x=x, y=y, name=text(row.get("variant")), error=number(row.get("fid_standard_error")))
        for row, x, y in made
        if x is not None and y is not None
    )


def _with_error(row: Json, key: str) -> str:
    value, error = shown(row.get(key)), shown(row.get(f"{key}_standard_error"), 2)
    return value if "-" in (value, error) else f"{value} ± {error}"


SECTIONS: Mapping[str, Callable[[str, Json, str], Section]] = MappingProxyType(
    {ANALYSIS: analysis_section, TUNING: tuning_section, COMPARISON: comparison_section}
)
"""The section of each kind of file, by what the file says it is."""
