"""`medcli analyze`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from medcli.cli.command import Command
from medcli.cli.output import Output, printable
from medcli.cli.table import table_of
from medcli.settings.analysis import AnalyzeRequest

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

    from medcli.cli.table import FittedTable
    from medcli.workflows.analyze.report import AnalyzeReport, AttentionFindings
    from medcli.workflows.analyze.suggestion import Suggestion

CELL = 3
"""Characters of a cell: two figures and a gap."""
MAX_CELLS = 23
"""With the labels at the left that is less than 80 columns."""
SHADES = ("#00224e", "#1d3a6e", "#43506d", "#61656f", "#7d7c78", "#9c9374", "#bdab68", "#dfc551", "#fee838")
"""Cividis in nine steps: lightness rises throughout, and it reads alike for the colour-blind."""
BRIGHT_FROM = 4
"""Shade from which black figures are read better than white ones."""
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
    from rich.text import Text

    parts = [] if report.attention is None else _attention(report.attention)
    where = f"wrote {printable(report.output)} ({printable(report.model)}, {report.num_images} images)"
    return Group(Text(where), *parts, threshold_table(report))


def _attention(found: AttentionFindings) -> list[Text]:
    from rich.text import Text

    percents = (100 * found.seen.redundancy_DL / math.log(2)).tolist()
    labels = [f"layer {layer}" for layer in range(len(percents))]
    claims = {"redundant_early": "redundant early", "falls_with_progress": "redundancy falls with progress"}
    lines = [
        f"{claims[name]}: {'yes' if seen.holds else 'no'}. {seen.text}" for name, seen in found.observations.items()
    ]
    lines.append(advice_line(found.suggestion))
    drawn = f" Pairs were sampled: at most {found.pair_error:.1g} nats of error an image and head."
    return [
        Text(),
        heat_map(percents, labels, ("0 noise", "1 image")),
        Text(MAP_CAPTION + "." + ("" if found.is_exact else drawn)),
        *(Text(f"\n{line}") for line in lines),
    ]


def heat_map(rows: Sequence[Sequence[float]], labels: Sequence[str], ends: tuple[str, str]) -> Text:
    """Lay out numbers as cells.

    Args:
        rows: Whole percents, 0 to 99 or a little above; all rows are equally long. Long ones are averaged down.
        labels: Of the rows.
        ends: Labels of the first and the last column.
    """
    from rich.style import Style
    from rich.text import Text

    pooled = [_pooled(row) for row in rows]
    top = max((max(row) for row in pooled), default=0.0) or 1.0
    margin = max(map(len, labels))
    width = CELL * len(pooled[0])
    text = Text(f"{'':{margin}} {ends[0]} {ends[1]:>{max(0, width - len(ends[0]) - 1)}}\n")
    for label, row in zip(labels, pooled, strict=True):
        text.append(f"{label:>{margin}} ")
        for value in row:
            shade = min(len(SHADES) - 1, int(len(SHADES) * value / top))
            colours = Style(color="black" if shade >= BRIGHT_FROM else "white", bgcolor=SHADES[shade])
            text.append(f"{min(99, round(value)):{CELL}d}", colours)
        text.append("\n")
    text.right_crop(1)
    return text


def _pooled(row: Sequence[float]) -> list[float]:
    """Average neighbours down to at most `MAX_CELLS` numbers."""
    num_cells = min(len(row), MAX_CELLS)
    borders = [cell * len(row) // num_cells for cell in range(num_cells + 1)]
    parts = [row[start:end] for start, end in zip(borders, borders[1:], strict=False)]
    return [sum(part) / len(part) for part in parts]


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
        f"solver step, of {report.num_steps}, by which 5, 50 and 95 % of the images would have moved up the ladder;\n"
        f"warm-up of {report.warmup_steps} steps; - where fewer images ever move"
    )
    return table_of(columns, cells, caption=caption, optional=("5 %", "95 %"))
