"""`medcli tune`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from medcli.cli.command import Command
from medcli.cli.output import Output
from medcli.cli.table import table_of
from medcli.cli.text import Prose, fixed
from medcli.settings.analysis import TuneRequest
from medcli.workflows.tune.request import ROUNDING, rounded_up

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from medcli.workflows.tune.report import FitReport, Row, TuneReport

METRICS = {"error": "relative distance from the dense model's exact images", "fid": "FID"}


def tune(request: TuneRequest, out: Output) -> None:
    """Run `medcli tune`."""
    from medcli.workflows.tune.run import tune as run

    report = run(request, out)
    out.result(report, summary(report))
    drawn = [Path(report.output) / "tuning.png", *([report.pictures] if report.pictures else [])]
    out.hint(f"see {' and '.join(map(str, drawn))}")


def summary(report: TuneReport) -> Group:
    """Build the table of the front below the baseline, and the command of the choice."""
    from rich.console import Group

    columns = ("", "calls", "networks", "guided", "GMACs", "saved %", "ms", "error", "+-", "FID", "FID +-")
    rows = [_row("dense", report.dense)]
    rows += [_row("chosen" if row.plan_sha256 == report.chosen.plan_sha256 else "", row) for row in report.front]
    caption = (
        f"an image each; {len(report.candidates)} candidates run on {report.settings['num_images']} images, judged by "
        f"{METRICS[report.metric]}: {report.reason}"
    )
    parts: list[RenderableType] = [
        table_of(columns, rows, caption=caption, optional=("FID +-", "+-", "guided", "saved %")),
    ]
    if report.fit is not None:
        parts.append(Prose(_fit_text(report.fit, report.metric)))
    parts.append(Prose(f"wrote {report.plan}\nthe chosen images:\n    {report.command}"))
    return Group(*parts)


def networks_text(row: Row) -> str:
    """Describe networks by progress: `16, full from 50 %`."""
    names = [str(count) if count else "full" for count in row.schedule.counts]
    starts = ["", *(f" from {100 * start:.0f} %" for start in row.schedule.at)]
    return ", ".join(name + start for name, start in zip(names, starts, strict=True))


def _row(mark: str, row: Row) -> tuple[object, ...]:
    error, deviation = row.error or (None, None)
    return (
        mark,
        row.calls,
        networks_text(row) + (", fitted" if row.is_fitted else ""),
        None if row.interval is None else f"{row.interval[0]:g} to {row.interval[1]:g}",
        rounded_up(row.gmacs, 5),
        f"{math.floor(1e4 * row.saving + ROUNDING) / 100:.2f}",
        rounded_up(1e3 * row.seconds, 4),
        fixed(error, ".4f"),
        fixed(deviation, ".4f"),
        fixed(row.fid, ".2f"),
        None if row.fid_standard_error is None or row.fid is None else f"{row.fid_standard_error:.2f}",
    )


def _fit_text(fit: FitReport, metric: str) -> str:
    name = "FID" if metric == "fid" else "error"
    found = f"{name} {fit.difference:+.4g} +- {fit.difference_standard_error:.2g} on images it has not seen"
    if fit.is_kept:
        return f"fitted times and weights are kept: {found}"
    return f"fitted times and weights are not kept: {found}, which is no sure gain"


COMMAND = Command(
    request=TuneRequest,
    run=tune,
    details="Runs network calls x networks by progress (x guidance intervals, where a score decides) on a few images\n"
    "and compares them with 250 dense steps. Without a budget it shows all and chooses the cheapest that is good.\n"
    "The same command again resumes; another budget in the same folder reuses its measurements.",
    examples=(
        "medcli tune --saving 90%",
        "medcli tune sit_xl-mediators.safetensors --calls 12 -o tuning-xl",
    ),
)
