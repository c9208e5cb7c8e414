"""`medcli sample`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from medcli.cli.command import Command
from medcli.cli.output import Output, printable
from medcli.cli.table import table_of
from medcli.settings.sampling import SampleRequest

if TYPE_CHECKING:
    from rich.console import Group

    from medcli.cli.table import FittedTable
    from medcli.workflows.sample.run import SampleReport

COSTS = "GMACs as the papers count them; executed: without the queries and keys that sampling does not compute"
SHADES = " .:-=+*#"
HISTOGRAM_BINS = 32


def sample(request: SampleRequest, out: Output) -> None:
    """Run `medcli sample`."""
    from medcli.runtime.processes import this_process
    from medcli.workflows.sample.run import sample as run

    report = run(request, out)
    if this_process().is_first:
        out.result(report, summary(report))
        out.hint(f"medcli fid {report.output}")


COMMAND = Command(
    request=SampleRequest,
    run=sample,
    details="The same command again generates the missing images.",
    examples=(
        "medcli sample --schedule dynamic --rho 0.3,0.1",
        "medcli sample --classes 3,5,8 --num-images 24 -o digits",
        "medcli sample --schedule full --cfg-scale 1 --npz",
    ),
)


def summary(report: SampleReport) -> Group:
    """Show the totals, and when images moved up the ladder."""
    from rich.console import Group
    from rich.text import Text

    # Added to 0, a rounded -0.0 loses its sign.
    saving = f"{round(100 * (1 - report.gmacs_per_image / report.gmacs_dense), 1) + 0:.1f}"
    rate = "-" if report.images_per_sec is None else f"{report.images_per_sec:.2f}"
    gmacs = (report.gmacs_per_image, report.gmacs_done_per_image, report.gmacs_dense)
    costs = (f"{report.nfe:g}", *(f"{cost:.4g}" for cost in gmacs), saving, rate)
    columns = (*("images", "new", "NFE", "GMACs an image", "GMACs (executed)", "GMACs (dense)", "saved %", "images/s"),)
    caption = COSTS if report.amm is None else f"{COSTS}\n{modulation_line(report.amm)}"
    optional = ("new", "images/s", "GMACs (dense)", "GMACs (executed)")
    totals = table_of(columns, [(report.num_images, report.num_new, *costs)], caption=caption, optional=optional)
    where = Text(f"wrote {printable(report.output)}")
    return Group(where, totals, switch_table(report)) if len(report.counts) > 1 else Group(where, totals)


def modulation_line(report: Mapping[str, Any]) -> str:
    """Describe attention modulation and its cost: see `amm_report`."""
    blocks = ", ".join(map(str, report["blocks"]))
    return (
        f"AMM in blocks {blocks}: {report['multiplications_per_pass']:,} multiplications a pass "
        f"({report['extra_percent']:.2g} % more, not among the GMACs); it saves none"
    )


def switch_table(report: SampleReport) -> FittedTable:
    """Build the table of moves along the ladder: number of images, and solver steps."""
    rows: list[tuple[object, ...]] = []
    for move, (before, after) in enumerate(pairwise(report.counts)):
        steps = [made[move] for made in report.switch_steps if len(made) > move]
        share = f"{len(steps)} of {report.num_images}"
        if steps:
            mean = f"{sum(steps) / len(steps):.1f}"
            rows.append(
                (f"{before} to {after or 'full'}", share, mean, min(steps), max(steps), shade(steps, report.num_steps))
            )
        else:
            rows.append((f"{before} to {after or 'full'}", share, None, None, None, ""))
    histogram = f"steps 0 to {report.num_steps - 1}"
    columns = ("mediators", "images", "mean step", "first", "last", histogram)
    return table_of(columns, rows, optional=(histogram,))


def shade(steps: list[int], num_steps: int) -> str:
    """Draw a histogram in one line: darker characters for more images.

    Args:
        steps: Solver steps of the moves, in 0..num_steps - 1.
        num_steps: Solver steps of an image.
    """
    width = min(num_steps, HISTOGRAM_BINS)
    bins = [0] * width
    for step in steps:
        bins[step * width // num_steps] += 1
    top = max(bins)
    # Rounded up, so that a single image shows.
    line = "".join(SHADES[-(-count * (len(SHADES) - 1) // top)] for count in bins)
    return f"|{line}|"
