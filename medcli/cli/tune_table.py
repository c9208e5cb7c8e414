"""What `medcli tune` shows people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medcli.cli.output import printable, table_of

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from medcli.workflows.tune.report import Candidate, TuneReport

UNITS = {"gmacs": "GMACs an image", "ms": "ms an image"}


def numbers(values: tuple[float, ...]) -> str:
    """Counts, layers or thresholds in one cell."""
    return ",".join(f"{value:g}" for value in values)


def summary(report: TuneReport) -> Group:
    """The front, the choice and how to sample with it."""
    from rich.console import Group
    from rich.text import Text

    unit = str(report.budget["unit"])
    columns = ("", "layers", "mediators", "rho", UNITS[unit], "saved %", "error", "+-", "FID")
    rows = [_row(candidate, report) for candidate in report.front]
    caption = (
        f"{report.num_replayed} configurations replayed, {len(report.candidates)} run on "
        f"{report.settings['num_images']} images each; error: distance from the dense images, relative to these"
    )
    parts: list[RenderableType] = [Text(f"wrote {printable(report.output)}"), table_of(columns, rows, caption=caption)]
    order = ", ".join(str(layer) for layer, _, _ in report.layer_order)
    parts.append(Text(f"layers, the one that minds mediators least first: {order}"))
    if report.random is not None:
        parts.append(Text(_random_line(report)))
    lines = [report.chosen.convert_command, report.chosen.command]
    # The checkpoint of the choice is there already; the line says how it was made.
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


def _random_line(report: TuneReport) -> str:
    """How the choice stands beside random configurations."""
    check = report.random
    if check is None or check.best is None:
        return "no random configuration of equal cost was found"
    verdict = "beaten by" if check.is_beaten else "no worse than"
    seen = [f"{one.judged(report.metric):.4f}" for one in (check.chosen, check.best)]
    new = [f"{one.judged(report.metric):.4f}" for one in check.on_new_images]
    return (
        f"the choice ({seen[0]}) is {verdict} the best of {len(check.others)} random configurations of equal cost "
        f"({seen[1]}); on new images they come to {new[0]} and {new[1]}"
    )
