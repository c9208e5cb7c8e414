"""`medcli bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from medcli.cli import options
from medcli.cli.output import output_of, table_of
from medcli.settings.network import NetworkSource

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from medcli.workflows.bench.rows import BenchRow
    from medcli.workflows.bench.run import BenchReport

TIMING = "Timing"

DEFAULT_REPEATS = 3
DEFAULT_STEPS = 5
"""Minimum number of steps in which the default ladder of three reaches its last count."""
DEFAULT_WARMUP_STEPS = 1
"""Fewer than the papers' 3, because the runs are short."""
CLOCKS = {
    "thread_cpu": "CPU time of the one thread",
    "wall": "wall time",
    "wall_synchronised": "wall time, synchronised with the device",
}

ModelArg = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="A checkpoint, or a preset such as SiT-XL/2 with random weights; without one, SiT-S/2.",
        show_default=False,
    ),
]
LayersOpt = Annotated[
    str | None,
    typer.Option(
        "--layers",
        metavar="WHICH",
        help="Blocks that attend through mediators: 0-3, 0,2,5, all or auto; the checkpoint's, else all.",
        rich_help_panel=options.MODEL,
    ),
]
ThreadsOpt = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        metavar="N",
        help="Number of CPU threads; with 1, CPU time is measured, which other programs hardly affect.",
        rich_help_panel=options.MACHINE,
    ),
]
RepeatsOpt = Annotated[
    int,
    typer.Option(
        "--repeats",
        min=1,
        metavar="N",
        help="Number of timed rounds.",
        rich_help_panel=TIMING,
    ),
]
LoopStepsOpt = Annotated[
    int,
    typer.Option(
        "--steps",
        min=0,
        metavar="N",
        help="Solver steps of the sampling runs; 0: time network calls only.",
        rich_help_panel=options.SAMPLING,
    ),
]
LoopRhoOpt = Annotated[
    str | None,
    typer.Option(
        "--rho",
        metavar="R,...",
        help="Falling thresholds of the sampling runs; by default each count gets about the same number of steps.",
        rich_help_panel=options.SAMPLING,
    ),
]
LoopWarmupOpt = Annotated[
    int,
    typer.Option(
        "--warmup-steps",
        min=1,
        metavar="N",
        help="Number of first distances whose mean scales the thresholds.",
        rich_help_panel=options.SAMPLING,
    ),
]
LoopImagesOpt = Annotated[
    int | None,
    typer.Option(
        "--num-images",
        min=1,
        metavar="N",
        help="Images of a sampling run; default: one batch.",
        rich_help_panel=options.SAMPLING,
    ),
]
COLUMNS = ("variant", "GMACs", "executed", "seconds", "images/s", "MiB", "speed-up")
FORWARD_SUFFIX = {"unabsorbed": ", not absorbed"}
"""Text after the mediator count."""


def bench(
    ctx: typer.Context,
    model: ModelArg = None,
    family: options.FamilyOpt = None,
    heads: options.HeadsOpt = None,
    res: options.ResOpt = None,
    mediators: options.MediatorsOpt = None,
    layers: LayersOpt = None,
    batch_size: options.BatchSizeOpt = None,
    dtype: options.DtypeOpt = "fp32",
    compiled: options.CompileOpt = False,
    device: options.DeviceOpt = None,
    threads: ThreadsOpt = None,
    repeats: RepeatsOpt = DEFAULT_REPEATS,
    steps: LoopStepsOpt = DEFAULT_STEPS,
    num_images: LoopImagesOpt = None,
    rho: LoopRhoOpt = None,
    warmup_steps: LoopWarmupOpt = DEFAULT_WARMUP_STEPS,
) -> None:
    """Time network calls and sampling with each mediator count against full attention.

    The defaults take about a minute on one thread.

    Examples:
        medcli bench
        medcli bench --threads 1 --batch-size 8 --steps 0
        medcli bench SiT-XL/2 --res 512 --mediators 16,64 --layers 0-3 --dtype bf16 --compile
    """
    from medcli.workflows.bench.loops import LoopSettings
    from medcli.workflows.bench.run import BenchRequest, BenchSettings
    from medcli.workflows.bench.run import bench as run

    out = output_of(ctx)
    settings = BenchSettings(
        network=NetworkSource(
            checkpoint=model,
            family=family,
            heads=heads,
            weights=None,
            mediators=None if mediators is None else () if mediators == "none" else options.parse_ints(mediators),
            layers=layers,
            res=res,
        ),
        batch_size=batch_size,
        dtype=dtype,
        compiled=compiled,
        repeats=repeats,
        device=device,
        num_threads=threads,
    )
    request = BenchRequest(
        settings=settings,
        loop=LoopSettings(
            steps=steps,
            num_images=num_images,
            rho=None if rho is None else options.parse_floats(rho),
            warmup_steps=warmup_steps,
        ),
    )
    report = run(request, out)
    out.result(report, summary(report))


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


def forward_table(rows: list[BenchRow], report: BenchReport) -> Table:
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
    return table_of(COLUMNS, cells, caption="\n".join(remarks))


def loop_table(rows: list[BenchRow], report: BenchReport) -> Table:
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
    return table_of(COLUMNS, cells, caption="\n".join(remarks))


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
