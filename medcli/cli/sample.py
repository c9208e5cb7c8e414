"""`medcli sample`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from medcli.cli.command import Command
from medcli.cli.drawings import histogram
from medcli.cli.output import Output
from medcli.cli.progress import duration
from medcli.cli.table import table_of
from medcli.cli.text import Prose
from medcli.runtime.text import macs_text, size_text
from medcli.settings.sampling import SampleRequest

if TYPE_CHECKING:
    from rich.console import Group

    from medcli.cli.table import FittedTable
    from medcli.workflows.sample.dry_run import SamplePlan
    from medcli.workflows.sample.report import SampleReport

COSTS = "MACs as the papers count them; executed: without the queries and keys that sampling does not compute"


MEASURED = "time: network calls of one process, scaled from a call of each kind; decoding and writing run beside them"
BOUNDS = "bounds: dynamic schedules decide by the image, so they hold for images that move never and at once"


def sample(request: SampleRequest, out: Output) -> None:
    """Run `medcli sample`."""
    from medcli.runtime.processes import this_process
    from medcli.workflows.sample.run import sample as run

    if request.dry_run:
        from medcli.workflows.sample.dry_run import plan_sample

        plan = plan_sample(request, out)
        out.result(plan, plan_table(plan))
        return
    report = run(request, out)
    if this_process().is_first:
        out.result(report, summary(report))
        out.hint(f"medcli fid {shlex.quote(report.output)}")


COMMAND = Command(
    request=SampleRequest,
    run=sample,
    details="The same command again generates the missing images.",
    examples=(
        "medcli sample --schedule dynamic --rho 0.3,0.1",
        "medcli sample --classes sneaker,bag --num-images 24 -o clothes",
        "medcli sample --num-images 50000 --npz --dry-run",
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


def plan_table(plan: SamplePlan) -> FittedTable:
    """Build the table of a planned run: what it makes, and what that takes."""
    ladder = ", ".join(str(count) if count else "full" for count in plan.mediators)
    how = f"{plan.schedule}, {ladder} mediators" if any(plan.mediators) else "full attention"
    rho = f", rho {','.join(f'{value:g}' for value in plan.rho)}" if plan.rho else ""
    calls = "as many calls as it chooses" if plan.nfe is None else f"{plan.nfe:,} network calls an image"
    rows = [
        ("model", f"{plan.model}, {plan.resolution_px} px"),
        ("attention", f"{how}{rho}"),
        ("sampler", f"{plan.sampler} {plan.solver}, {calls}"),
        ("images", f"{plan.num_missing:,} missing of {plan.num_images:,}, in batches of {plan.batch_size}"),
        ("MACs an image", _between(plan.gmacs_per_image_min, plan.gmacs_per_image_max, macs_text)),
        ("full attention", "-" if plan.gmacs_dense is None else macs_text(plan.gmacs_dense)),
        ("time", f"{_between(plan.seconds_min, plan.seconds_max, duration)} on {plan.device}, {plan.dtype}"),
        ("disk", f"{size_text(plan.disk_bytes)} at most"),
        ("output", plan.output),
    ]
    has_bounds = (plan.gmacs_per_image_min, plan.seconds_min) != (plan.gmacs_per_image_max, plan.seconds_max)
    caption = f"{MEASURED}\n{BOUNDS}" if has_bounds else MEASURED
    return table_of(("run", ""), rows, caption=caption)


def _between(low: float | None, high: float | None, text: Callable[[float], str | None]) -> str | None:
    """Write a value, or the two bounds of it; None is unknown."""
    if low is None or high is None:
        return "unknown"
    return text(low) if text(low) == text(high) else f"{text(low)} to {text(high)}"


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
