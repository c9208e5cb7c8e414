"""Tables of `medcli tune`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medcli.cli.output import printable
from medcli.cli.table import table_of

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from medcli.workflows.tune.report import Candidate, TuneReport

UNITS = {"gmacs": "GMACs per image", "ms": "ms per image"}


def numbers(values: tuple[float, ...]) -> str:
    """Format counts, layers or thresholds."""
    return ",".join(f"{value:g}" for value in values)


def summary(report: TuneReport) -> Group:
    """Build the table of the front, and the commands of the choice."""
    from rich.console import Group
    from rich.text import Text

    unit = str(report.budget["unit"])
    columns = ("", "layers", "mediators", "rho", UNITS[unit], "saved %", "error", "+-", "FID")
    rows = [_row(candidate, report) for candidate in report.front]
    caption = (
        f"{report.num_replayed} configurations replayed, {len(report.candidates)} run on "
        f"{report.settings['num_images']} images each; error: relative distance from the dense images"
    )
    parts: list[RenderableType] = [
        Text(f"wrote {printable(report.output)}"),
        table_of(columns, rows, caption=caption, optional=("+-", "saved %")),
    ]
    order = ", ".join(str(layer) for layer, _, _ in report.layer_order)
    parts.append(Text(f"layers by sensitivity to mediators, lowest first: {order}"))
    lines = [report.chosen.convert_command, report.chosen.command]
    # The checkpoint of the choice is already written; the convert command documents it.
    parts += [Text("chosen:"), *(Text(f"    {printable(line)}") for line in lines if line)]
    return Group(*parts)


def _row(candidate: Candidate, report: TuneReport) -> tuple[object, ...]:
    found = candidate.configuration
    return (
        "chosen" if candidate.configuration == report.chosen.configuration else "",
        numbers(found.layers) or "none",
        numbers(found.counts) if found.layers else "-",
        numbers(found.rho) or "-",
        f"{candidate.cost:.5g}",
        f"{100 * (1 - candidate.cost / report.dense.cost):.2f}",
        f"{candidate.error:.4f}",
        f"{candidate.error_standard_error:.4f}",
        None if candidate.fid is None else f"{candidate.fid:.2f}",
    )
