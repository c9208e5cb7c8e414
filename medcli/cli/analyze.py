"""`medcli analyze`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from medcli.cli.command import Command
from medcli.cli.drawings import HeatMap
from medcli.cli.output import Output
from medcli.cli.table import table_of
from medcli.cli.text import Prose
from medcli.settings.analysis import AnalyzeRequest

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from medcli.cli.table import FittedTable
    from medcli.workflows.analyze.report import AnalyzeReport, AttentionFindings
    from medcli.workflows.analyze.suggestion import Suggestion

MAP_CAPTION = "layers by progress: divergence between queries in % of ln 2; low is redundant"


def analyze(request: AnalyzeRequest, out: Output) -> None:
    """Run `medcli analyze`."""
    from medcli.workflows.analyze.run import analyze as run

    report = run(request, out)
    out.result(report, summary(report))
    if report.convert:
        out.hint(report.convert)


COMMAND = Command(
    request=AnalyzeRequest,
    run=analyze,
    details="Samples with full attention; the images are not kept. Writes analysis.json and two pictures.",
    examples=(
        "medcli analyze",
        "medcli analyze sit_xl.pt --num-images 4 --points 10 -o analysis/xl",
        "medcli analyze --no-attention --num-images 100 --rho 0.5,0.3,0.1",
    ),
)


def summary(report: AnalyzeReport) -> Group:
    """Show the map, the observations, the suggestion and the effect of thresholds."""
    from rich.console import Group

    parts = [] if report.attention is None else _attention(report.attention)
    where = Prose(f"wrote {report.output}\n{report.model}, {report.num_images} images")
    return Group(where, *parts, threshold_table(report))


def _attention(found: AttentionFindings) -> list[RenderableType]:
    percents = (100 * found.seen.redundancy_DL / math.log(2)).tolist()
    labels = [f"layer {layer}" for layer in range(len(percents))]
    claims = {"redundant_early": "redundant early", "falls_with_progress": "redundancy falls with progress"}
    lines = [
        f"{claims[name]}: {'yes' if seen.holds else 'no'}. {seen.text}" for name, seen in found.observations.items()
    ]
    lines.append(advice_line(found.suggestion))
    drawn = f" Pairs were sampled: at most {found.pair_error:.1g} nats of error an image and head."
    return [
        Prose(""),
        HeatMap(percents, labels, ("0 noise", "1 image")),
        Prose(MAP_CAPTION + "." + ("" if found.is_exact else drawn)),
        *(Prose(f"\n{line}") for line in lines),
    ]


def advice_line(advice: Suggestion) -> str:
    """Format the suggestion as a line."""
    from medcli.workflows.analyze.attention import layer_words

    if not advice.layers:
        return f"suggestion: no mediators: {advice.reason}"
    counts = ",".join(map(str, advice.mediators))
    savings = " to ".join(f"{saving:.1f}" for saving in sorted({advice.saving_percent[-1], advice.saving_percent[0]}))
    return (
        f"suggestion: {layer_words(advice.layers)} with mediators {counts}, saving {savings} % of the multiply-adds: "
        f"{advice.reason}"
    )


def threshold_table(report: AnalyzeReport) -> FittedTable:
    """Build the table of thresholds: images moved, and at which solver steps."""
    columns = ["rho"]
    cells: list[list[object]] = [[f"{trigger.rho:g}"] for trigger in next(iter(report.triggers.values()))]
    for name, found in report.triggers.items():
        columns += [f"{name.upper()}: images %", "5 %", "median", "95 %"]
        for row, trigger in zip(cells, found, strict=True):
            row += [f"{100 * trigger.share:.0f}", *(trigger.quantile(level) for level in (0.05, 0.5, 0.95))]
    caption = (
        f"solver step, of {report.num_steps}, by which 5, 50 and 95 % of the images would have moved up the ladder; "
        f"warm-up of {report.warmup_steps} steps; - where fewer images ever move"
    )
    return table_of(columns, cells, caption=caption, optional=("5 %", "95 %"))
