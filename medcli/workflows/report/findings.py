"""Sections of a page for results of `analyze`, `tune` and `bench`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from medcli.charts.figure import svg
from medcli.charts.plots import heat_map
from medcli.errors import DataError
from medcli.pages.page import Figure, Section, Table
from medcli.workflows.report.commands import analyze_command
from medcli.workflows.report.json_access import (
    Json,
    as_list,
    checkpoint_facts,
    join,
    look_up,
    number,
    numbers,
    rounded,
    rows_of,
    text,
)
from medcli.workflows.report.result_charts import (
    COST_LABELS,
    ERROR_LABELS,
    plan_text,
    tuning_axes,
    tuning_chart,
)

ANALYSIS, TUNING, BENCH = "medcli-analysis", "medcli-tuning", "medcli-bench"
BENCH_TABLES = (
    ("loop", "sampling run", "Error: relative distance of the latents to the exact path of full attention."),
    ("forward", "mediators", "One network call."),
)
"""Group of rows, heading of its names and caption of each table of a measurement."""
MOST_CELLS = 50_000
"""Bound on layers times steps of a map."""
LN_2 = 0.6931471805599453
CLAIMS = {"redundant_early": "High redundancy early", "falls_with_progress": "Redundancy falls with progress"}


def analysis_section(name: str, found: Json, anchor: str) -> Section:
    """Return the section of an analysis: redundancy map, observations, suggestion, thresholds.

    Raises:
        DataError: If the map is damaged.
    """
    figures = (_map(name, found),) if found.get("redundancy") is not None else ()
    rebuilt = analyze_command(str(Path(name).parent), found)
    num_images, num_steps = rounded(found.get("num_images")), rounded(found.get("num_steps"))
    facts = [
        (claim, f"{'yes' if look_up(found, 'observations', key, 'holds') is True else 'no'}. {said}")
        for key, claim in CLAIMS.items()
        if isinstance(said := look_up(found, "observations", key, "text"), str)
    ]
    if isinstance(reason := look_up(found, "suggestion", "reason"), str):
        layers, counts = (as_list(look_up(found, "suggestion", key)) for key in ("layers", "mediators"))
        facts.append(("Suggested", f"layers {join(layers)}; mediators {join(counts)}: {reason}"))
    facts += checkpoint_facts(found.get("settings"))
    return Section(
        title=f"Redundancy: {name}",
        anchor=anchor,
        lead=f"{text(found.get('model'))}: {num_images} images, {num_steps} steps.",
        facts=tuple(facts),
        figures=figures,
        tables=tuple(_thresholds(found)),
        commands=tuple(line for line in (rebuilt, found.get("convert")) if isinstance(line, str)),
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
    description = (
        f"Map of {len(lines)} layers by {len(places)} points of the way, {name}: divergence between the attention of "
        f"different queries, from {min(flat):.3g} to {max(flat):.3g} nats."
    )

    def draw(figure: Any) -> None:
        heat_map(figure.subplots(), lines, places, label="divergence (nats)", highest=highest, below=True)

    return Figure(
        svg=svg(draw, height=120 + min(240, max(60, 9 * len(lines))), description=description),
        title="Divergence between queries, by layer and progress",
        caption="Jensen-Shannon divergence between the attention of different queries, at most "
        f"ln 2 = {LN_2:.3f} nats. Dark: redundant.",
    )


def _thresholds(found: Json) -> list[Table]:
    """Return a table of what each threshold would trigger, with the distances side by side."""
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
    caption = "Moves that each threshold on the change of a step would trigger."
    return [Table(headings=("rho", *headings), rows=rows, caption=caption)]


def _triggered(row: Json) -> tuple[str, str]:
    return _percent(row.get("share")), rounded(row.get("mean_step"), 3)


def _percent(share: object) -> str:
    found = number(share)
    return "-" if found is None else f"{100 * found:.0f} %"


def tuning_section(name: str, found: Json, anchor: str) -> Section:
    """Return the section of a tuning: candidates, front, choice and commands.

    Raises:
        DataError: If it holds no candidates.
    """
    cost, metric = tuning_axes(found)
    labels = COST_LABELS[cost], ERROR_LABELS[metric]
    rows, front = rows_of(found.get("candidates")), rows_of(found.get("front"))
    try:
        draw = tuning_chart(found)
    except DataError as err:
        raise DataError(f"{name}: {err.message}", hint=err.hint) from err
    description = f"{name}: {len(rows)} candidates, {labels[1]} against {labels[0]}; {len(front)} on the front."
    figure = Figure(
        svg=svg(draw, height=270, description=description),
        title="Error against cost",
        caption="Each point is a plan that was run; no other run beats those on the front in both.",
    )
    heading = [("dense", found["dense"])] if isinstance(found.get("dense"), Mapping) else []
    shown = [*heading, *((plan_text(row), row) for row in front)]
    keys = ("calls", "gmacs", "saving_percent", "seconds", metric)
    cells = tuple((name, *(rounded(row.get(key)) for key in keys)) for name, row in shown)
    headings = ("plan", "calls", COST_LABELS["gmacs"], "saved %", "seconds per image", labels[1])
    command = found.get("command")
    return Section(
        title=f"Tuning: {name}",
        anchor=anchor,
        lead=f"{text(found.get('model'))}: {_budget(found)}{len(rows)} candidates run.",
        figures=(figure,),
        facts=tuple(checkpoint_facts(found.get("settings"))),
        tables=(Table(headings=headings, rows=cells, caption="Pareto front, below the dense baseline."),),
        commands=(command,) if isinstance(command, str) else (),
    )


def _budget(found: Json) -> str:
    kind, value = text(look_up(found, "budget", "kind"), ""), rounded(look_up(found, "budget", "value"))
    return f"budget {kind} {value}; " if kind else ""


def bench_section(name: str, found: Json, anchor: str) -> Section:
    """Return the section of a measurement: the papers' 250 steps of full attention, and the plans beside them.

    Raises:
        DataError: If it holds no rows.
    """
    rows = rows_of(found.get("rows"))
    if not rows:
        raise DataError(f"{name} has no rows", hint="write it with medcli bench --json")
    tables = []
    for group, first, caption in BENCH_TABLES:
        cells = tuple(
            (
                text(row.get("title"), join(as_list(row.get("mediators"))).replace("-", "full attention")),
                rounded(row.get("gmacs")),
                rounded(row.get("seconds_per_image")),
                rounded(row.get("error"), 3),
                rounded(row.get("ratio_to_dense"), 3),
            )
            for row in rows
            if row.get("group") == group and row.get("variant") != "unabsorbed"
        )
        headings = (first, "GMACs per image", "seconds per image", "error", "times faster")
        tables += [Table(headings=headings, rows=cells, caption=caption)] if cells else []
    facts = [(key, text(found.get(key))) for key in ("machine", "device", "clock", "dtype")]
    return Section(
        title=f"Measured time: {name}",
        anchor=anchor,
        lead=f"{text(found.get('model'))}: batches of {rounded(found.get('batch_size'))}.",
        facts=(*facts, ("threads", rounded(found.get("threads")))),
        tables=tuple(tables),
    )


SECTIONS: Mapping[str, Callable[[str, Json, str], Section]] = MappingProxyType(
    {ANALYSIS: analysis_section, TUNING: tuning_section, BENCH: bench_section}
)
"""Section of each kind of file, by its key `kind`."""
