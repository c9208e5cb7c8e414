"""Sections of a page for scores: the table of `medcli fid` reports, and FID against cost."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from medcli.charts.figure import svg
from medcli.charts.plots import Point, Series, scatter
from medcli.pages.page import Figure, Section, Table
from medcli.runtime.text import measured
from medcli.scores.extractor import INCEPTION
from medcli.scores.protocol import compared, differences
from medcli.tuning.pareto import front
from medcli.workflows.fid.compare import LOWER_IS_BETTER, SHOWN, CompareReport, title_of, with_numbers
from medcli.workflows.fid.kept import scored_folder
from medcli.workflows.fid.scoring import json_key
from medcli.workflows.report.commands import fid_commands
from medcli.workflows.report.json_access import Json, look_up, number, rounded, text
from medcli.workflows.report.result_charts import COST_LABELS, ERROR_LABELS
from medcli.workflows.report.runs import SampledRun

HASHES = (("extractor_sha256", "weights of"), ("reference_sha256", "reference"), ("samples_sha256", "images of"))
"""Key of a hash in a report's provenance, and the file it belongs to."""
EXACT = "Precision and recall in exact arithmetic; on ImageNet ADM's float16 reads about 0.001 and 0.002 higher."
MARKS = "Best: *; within two standard errors of the best: ~. "
ERRORS = "Errors are standard errors over draws of the samples, the reference held fixed. "


def score_sections(rows: Sequence[Json], runs: Sequence[SampledRun]) -> list[Section]:
    """Return the table of scores, and FID against cost where the page has the runs too.

    Args:
        rows: Reports of `medcli fid`.
        runs: Sample folders of the page.
    """
    rows = tuple(map(with_numbers, rows))
    found = differences({f"{row['samples']} (row {place})": compared(row) for place, row in enumerate(rows, 1)})
    points, notes = cost_points(rows, runs)
    notes = [*(f"These scores do not compare: {difference}." for difference in found), *notes]
    table = Section(
        title="Scores",
        anchor="scores",
        notes=tuple(notes),
        facts=_origins(rows),
        tables=(_scores(rows, marks=not found),),
        commands=fid_commands(rows),
    )
    return [table, *([Section(title="FID against cost", anchor="cost", figures=(_figure(points),))] if points else [])]


def error_of(row: Json, key: str) -> float | None:
    """Return the standard error of one score of a report."""
    return number(look_up(row, "standard_errors", key))


def cost_points(rows: Sequence[Json], runs: Sequence[SampledRun]) -> tuple[list[Point], list[str]]:
    """Return FID against GMACs of every report on all images of a folder of the page, and notes on other reports."""
    by_path = run_by_path(runs)
    points, notes = [], []
    for row in rows:
        run, fid = run_of(row, by_path), number(row.get("fid"))
        gmacs = run.total("gmacs_per_image") if run else None
        if run and row.get("num_samples") != run.num_images:
            notes.append(
                f"The scores of {row['samples']} are of {rounded(row.get('num_samples'))} images, the folder holds "
                f"{run.num_images}: they are not set against its cost."
            )
        elif run and fid is not None and gmacs is not None:
            name = os.path.basename(os.path.abspath(run.name))
            points.append(Point(x=gmacs, y=fid, error=error_of(row, "fid"), name=name, has_label=True))
    return points, notes


def run_by_path(runs: Sequence[SampledRun]) -> dict[str, SampledRun]:
    """Return runs by the absolute paths of their folders."""
    return {os.path.abspath(run.name): run for run in runs}


def run_of(row: Json, by_path: Mapping[str, SampledRun]) -> SampledRun | None:
    """Return the run whose images a report of `medcli fid` is of."""
    return by_path.get(os.path.abspath(scored_folder(row["samples"])))


def _figure(points: Sequence[Point]) -> Figure:
    best = front(points, lambda point: point.x, lambda point: point.y)
    series = [
        Series(name="runs", points=tuple(points)),
        Series(name="Pareto front", points=tuple(best), kind="reference"),
    ]
    values = "; ".join(f"{point.name}: {point.x:.4g} GMACs, FID {point.y:.4g}" for point in points)

    def draw(figure: Any) -> None:
        scatter(figure.subplots(), series, x=COST_LABELS["gmacs"], y=ERROR_LABELS["fid"])

    return Figure(
        svg=svg(draw, height=270, description=f"FID against cost. {values}"),
        title="FID against GMACs per image",
        caption="Bars: one standard error. No other run beats those on the front in both.",
    )


def _scores(rows: Sequence[Json], *, marks: bool) -> Table:
    report = CompareReport(rows=tuple(map(dict, rows)), differences=())
    metrics = [name for name in SHOWN if any(row.get(json_key(name)) is not None for row in rows)]
    cells = [
        (
            str(row["samples"]),
            rounded(row.get("num_samples")),
            *(_cell(row, name, _mark(report, name, place) if marks else "") for name in metrics),
        )
        for place, row in enumerate(rows)
    ]
    is_inception = any(row.get("extractor") == INCEPTION for row in rows)
    exact = EXACT if is_inception and {"precision", "recall"} & set(metrics) else ""
    marking = MARKS if marks and len(rows) > 1 else ""
    return Table(
        headings=("samples", "N", *(f"{title_of(name)} {'↓' if name in LOWER_IS_BETTER else '↑'}" for name in metrics)),
        rows=tuple(cells),
        caption=f"{marking}{ERRORS}{exact}".strip(),
    )


def _mark(report: CompareReport, metric: str, place: int) -> str:
    if len(report.rows) < 2:
        return ""
    best = report.best(metric)
    return " *" if best == place else " ~" if report.is_near_best(metric, place) else ""


def _cell(row: Json, metric: str, mark: str) -> str:
    value, error = number(row.get(json_key(metric))), error_of(row, json_key(metric))
    if value is None:
        return "-"
    return measured(value, error) + mark


def _origins(rows: Sequence[Json]) -> tuple[tuple[str, str], ...]:
    """Return names and hashes of the files behind the scores, each once."""
    found: dict[tuple[str, str], None] = {}
    for row in rows:
        names = {"extractor_sha256": text(row.get("extractor")), "reference_sha256": text(row.get("reference"))}
        for key, kind in HASHES:
            if isinstance(sha256 := look_up(row, "provenance", key), str):
                found[f"{kind} {names.get(key, row['samples'])}, SHA-256", sha256] = None
    return tuple(found)
