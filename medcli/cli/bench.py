"""`medcli bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medcli.cli.command import Command
from medcli.cli.output import Output
from medcli.cli.table import table_of
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

COLUMNS = ("variant", "GMACs", "GMACs (executed)", "seconds", "images/s", "MiB", "speed-up")
OPTIONAL = ("MiB", "GMACs (executed)", "images/s")
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
    details="The defaults take about a minute on one thread.",
    examples=(
        "medcli bench",
        "medcli bench --threads 1 --batch-size 8 --steps 0",
        "medcli bench SiT-XL/2 --res 512 --mediators 16,64 --layers 0-3 --dtype bf16 --compile",
    ),
)


def summary(report: BenchReport) -> Group:
    """Build the tables: circumstances, network calls, and sampling runs if there were any."""
    from rich.console import Group
    from rich.text import Text

    threads = f"{report.threads} thread{'s' if report.threads > 1 else ''}"
    machine = report.machine if report.device.startswith("cuda") else f"{report.machine}, {threads}"
    network = f"{report.model}, {report.resolution_px} px, {report.num_tokens} tokens, {report.dtype}"
    compiled = ", compiled" if report.compiled else ""
    head = Text(f"{network}{compiled}, batches of {report.batch_size}; {machine}")
    forwards = [row for row in report.rows if row.group == "forward"]
    loops = [row for row in report.rows if row.group == "loop"]
    return Group(head, forward_table(forwards, report), *([loop_table(loops, report)] if loops else []))


def forward_table(rows: list[BenchRow], report: BenchReport) -> FittedTable:
    """Build the table of network calls: full attention and each mediator count, with and without absorption."""
    cells = [(_counts(row) + FORWARD_SUFFIX.get(row.variant, ""), *_cells(row)) for row in rows]
    remarks = [
        f"one network call; seconds: median of {report.repeats} interleaved runs, {CLOCKS[report.clock]}, "
        "± half the interquartile range",
        "GMACs: per image, as the papers count; executed: without the queries and keys that are absorbed",
        f"MiB: peak beyond the weights' {report.weights_mib:,.0f} MiB; speed-up: over full attention",
    ]
    if report.layers:
        remarks.append(f"mediators in {len(report.layers)} of {report.depth} blocks")
    return table_of(COLUMNS, cells, caption="\n".join(remarks), optional=OPTIONAL)


def loop_table(rows: list[BenchRow], report: BenchReport) -> FittedTable:
    """Build the table of sampling runs: the engine with full attention and with mediators."""
    titles = [f"engine, {_counts(row)}" for row in rows]
    cells = [(title, *_cells(row)) for title, row in zip(titles, rows, strict=True)]
    rho = f", thresholds {','.join(f'{value:.3g}' for value in report.rho)}" if report.rho else ""
    remarks = [f"{report.steps} solver steps of the SDE{rho}"]
    remarks += [
        f"{title}: {row.num_images} images; network calls per image at each count: "
        + " ".join(f"{calls:g}" for calls in row.calls or ())
        for title, row in zip(titles, rows, strict=True)
    ]
    return table_of(COLUMNS, cells, caption="\n".join(remarks), optional=OPTIONAL)


def _counts(row: BenchRow) -> str:
    """Format the mediator counts of a row."""
    return ",".join(map(str, row.mediators)) or "full"


def _cells(row: BenchRow) -> tuple[object, ...]:
    """Format all columns but the first."""
    peak, seconds = row.peak_memory_mib, row.seconds
    spread = (seconds.q3 - seconds.q1) / 2 / seconds.median
    return (
        f"{row.gmacs:.4g}",
        f"{row.gmacs_done:.4g}",
        f"{seconds.median:.4g} ±{100 * spread:.0f}%",
        f"{row.images_per_sec:.4g}",
        None if peak is None else f"{peak:,.0f}",
        f"{row.ratio_to_dense:.2f}{' slower' if row.is_slower else ''}",
    )
