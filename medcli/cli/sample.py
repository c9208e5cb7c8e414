"""`medcli sample`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from medcli.cli.command import Command
from medcli.cli.drawings import histogram
from medcli.cli.output import Output
from medcli.cli.table import table_of
from medcli.cli.text import Prose
from medcli.runtime.text import macs_text
from medcli.settings.sampling import SampleRequest

if TYPE_CHECKING:
    from rich.console import Group

    from medcli.cli.table import FittedTable
    from medcli.workflows.sample.report import SampleReport

COSTS = "MACs as the papers count them; executed: without the queries and keys that sampling does not compute"


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
        "medcli sample --classes 1,5,9 --num-images 24 -o clothes",
        "medcli sample --schedule full --cfg-scale 1 --npz",
    ),
)


def summary(report: SampleReport) -> Group:
    """Show the totals, and when images moved up the ladder."""
    from rich.console import Group

    # Added to 0, a rounded -0.0 loses its sign.
    saving = f"{round(100 * (1 - report.gmacs_per_image / report.gmacs_dense), 1) + 0:.1f}"
    rate = "-" if report.images_per_sec is None else f"{report.images_per_sec:.2f}"
    gmacs = (report.gmacs_per_image, report.gmacs_done_per_image, report.gmacs_dense)
    costs = (f"{report.nfe:g}", *map(macs_text, gmacs), saving, rate)
    columns = (*("images", "new", "NFE", "MACs an image", "MACs (executed)", "MACs (dense)", "saved %", "images/s"),)
    caption = COSTS if report.amm is None else f"{COSTS}\n{modulation_line(report.amm)}"
    optional = ("new", "MACs (dense)", "MACs (executed)", "images/s")
    totals = table_of(columns, [(report.num_images, report.num_new, *costs)], caption=caption, optional=optional)
    where = Prose(f"wrote {report.output}")
    return Group(where, totals, switch_table(report)) if len(report.counts) > 1 else Group(where, totals)


def modulation_line(report: Mapping[str, Any]) -> str:
    """Describe attention modulation and its cost: see `amm_report`."""
    blocks = ", ".join(map(str, report["blocks"]))
    return (
        f"AMM in blocks {blocks}: {report['multiplications_per_pass']:,} multiplications a pass "
        f"({report['extra_percent']:.2g} % more, not among the MACs); it saves none"
    )


def switch_table(report: SampleReport) -> FittedTable:
    """Build the table of moves along the ladder: number of images, and solver steps."""
    rows: list[tuple[object, ...]] = []
    for move, (before, after) in enumerate(pairwise(report.counts)):
        steps = [made[move] for made in report.switch_steps if len(made) > move]
        row = (f"{before} to {after or 'full'}", f"{len(steps)} of {report.num_images}")
        if steps:
            mean, bars = f"{sum(steps) / len(steps):.1f}", histogram(steps, report.num_steps)
            rows.append((*row, mean, min(steps), max(steps), bars))
        else:
            rows.append((*row, None, None, None, ""))
    drawn = f"steps 0 to {report.num_steps - 1}"
    columns = ("mediators", "images", "mean step", "first", "last", drawn)
    return table_of(columns, rows, optional=(drawn,), whole=(drawn,))
