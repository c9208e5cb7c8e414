"""`medcli bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medcli.cli.command import Command
from medcli.cli.output import Output
from medcli.cli.table import table_of
from medcli.cli.text import Prose, fixed
from medcli.runtime.text import macs_text
from medcli.settings.costs import BenchRequest

if TYPE_CHECKING:
    from rich.console import Group

    from medcli.cli.table import FittedTable
    from medcli.workflows.bench.rows import BenchRow
    from medcli.workflows.bench.run import BenchReport

CLOCKS = {
    "thread_cpu": "CPU time of the one thread",
    "wall": "wall time",
    "wall_synchronised": "wall time, synchronised with the device",
}

COLUMNS = ("variant", "MACs", "MACs (executed)", "seconds", "images/s", "MiB", "speed-up")
LOOP_COLUMNS = ("sampling run", "MACs", "MACs (executed)", "seconds", "MiB", "error", "speed-up")
LOOP_OPTIONAL = ("MiB", "MACs (executed)")
OPTIONAL = ("MiB", "MACs (executed)", "images/s")
"""Columns a narrow terminal lacks."""
FORWARD_SUFFIX = {"unabsorbed": ", not absorbed"}
"""Text after the mediator count."""


def bench(request: BenchRequest, out: Output) -> None:
    """Run `medcli bench`."""
    from medcli.workflows.bench.run import bench as run

    report = run(request, out)
    out.result(report, summary(report))


COMMAND = Command(
    request=BenchRequest,
    run=bench,
    details="Network calls, and sampling runs beside the papers' 250 steps; the defaults take one or two minutes.",
    examples=(
        "medcli bench",
        "medcli bench fashion --sampler ode --steps 12 --threads 1",
        "medcli bench SiT-XL/2 --res 512 --mediators 16,64 --dtype bf16 --compile",
    ),
)


def summary(report: BenchReport) -> Group:
    """Build the tables: circumstances, network calls, and sampling runs if there were any."""
    from rich.console import Group

    threads = f"{report.threads} thread{'s' if report.threads > 1 else ''}"
    machine = report.machine if report.device.startswith("cuda") else f"{report.machine}, {threads}"
    network = f"{report.model}, {report.resolution_px} px, {report.num_tokens} tokens, {report.dtype}"
    compiled = ", compiled" if report.compiled else ""
    head = Prose(f"{network}{compiled}, batches of {report.batch_size}; {machine}")
    forwards = [row for row in report.rows if row.group == "forward"]
    loops = [row for row in report.rows if row.group == "loop"]
    return Group(head, forward_table(forwards, report), *([loop_table(loops, report)] if loops else []))


def forward_table(rows: list[BenchRow], report: BenchReport) -> FittedTable:
    """Build the table of network calls: full attention and each mediator count, with and without absorption."""
    cells = [(_counts(row) + FORWARD_SUFFIX.get(row.variant, ""), *_cells(row)) for row in rows]
    remarks = [
        f"one network call; seconds: median of {report.repeats} interleaved runs, {CLOCKS[report.clock]}, "
        "± half the interquartile range",
        "MACs: per image, as the papers count; executed: without the queries and keys that are absorbed",
        f"MiB: peak beyond the weights' {report.weights_mib:,.0f} MiB; speed-up: over full attention",
    ]
    if report.layers:
        remarks.append(f"mediators in {len(report.layers)} of {report.depth} blocks")
    return table_of(COLUMNS, cells, caption="\n".join(remarks), optional=OPTIONAL)


def loop_table(rows: list[BenchRow], report: BenchReport) -> FittedTable:
    """Build the table of sampling runs: the papers' 250 steps and the plans beside them."""
    cells = [
        (
            row.title,
            macs_text(row.gmacs),
            macs_text(row.gmacs_done),
            f"{row.seconds_per_image:.4g} {_spread(row)}",
            fixed(row.peak_memory_mib, ",.0f"),
            fixed(row.error, ".3f"),
            _speed_up(row),
        )
        for row in rows
    ]
    remarks = [f"{rows[0].num_images} images a run; seconds: of an image, {CLOCKS[report.clock]}"]
    if rows[0].scale > 1:
        remarks.append(f"{rows[0].title}: the time of fewer steps, times {rows[0].scale:.3g}")
    for row in rows:
        sampler = (row.sampling or {}).get("sampler", {})
        calls = f", calls at each count: {' '.join(f'{each:g}' for each in row.calls or ())}" if row.mediators else ""
        remarks.append(f"{row.title}: {sampler.get('sampler')} {sampler.get('solver')}{calls}")
    remarks.append(
        "error: relative distance to the exact path of full attention; noise has none, random weights neither"
    )
    return table_of(LOOP_COLUMNS, cells, caption="\n".join(remarks), optional=LOOP_OPTIONAL)


def _counts(row: BenchRow) -> str:
    """Format the mediator counts of a row."""
    return ",".join(map(str, row.mediators)) or "full"


def _cells(row: BenchRow) -> tuple[object, ...]:
    """Format all columns but the first."""
    return (
        macs_text(row.gmacs),
        macs_text(row.gmacs_done),
        f"{row.seconds.median:.4g} {_spread(row)}",
        f"{row.images_per_sec:.4g}",
        fixed(row.peak_memory_mib, ",.0f"),
        _speed_up(row),
    )


def _spread(row: BenchRow) -> str:
    """Format half the interquartile range of the time."""
    return f"±{50 * (row.seconds.q3 - row.seconds.q1) / row.seconds.median:.0f}%"


def _speed_up(row: BenchRow) -> str:
    return f"{row.ratio_to_dense:.2f}{' slower' if row.is_slower else ''}"
