"""`medcli bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from medcli.cli import options
from medcli.cli.bench_train import TrainOpt, VaeOpt, refuse_idle_flags, training_summary
from medcli.cli.bench_words import CLOCKS, SLOWER, machine_words
from medcli.cli.output import output_of, table_of
from medcli.settings.network import parse_layers

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from medcli.workflows.bench.rows import BenchRow
    from medcli.workflows.bench.run import BenchReport

TIMING = "Timing"

DEFAULT_REPEATS = 3
DEFAULT_STEPS = 5
"""The fewest in which the default ladder of three is climbed to its end."""
DEFAULT_WARMUP_STEPS = 1
"""Fewer than the papers' 3, because the runs are short."""

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
        help="CPU threads; 1 is timed by its CPU time, which other programs hardly change.",
        rich_help_panel=options.MACHINE,
    ),
]
RepeatsOpt = Annotated[
    int,
    typer.Option(
        "--repeats",
        min=1,
        metavar="N",
        help="Rounds in which every variant is timed once.",
        rich_help_panel=TIMING,
    ),
]
LoopStepsOpt = Annotated[
    int,
    typer.Option(
        "--steps",
        min=0,
        metavar="N",
        help="Solver steps of the sampling runs; 0 times network calls only.",
        rich_help_panel=options.SAMPLING,
    ),
]
LoopRhoOpt = Annotated[
    str | None,
    typer.Option(
        "--rho",
        metavar="R,...",
        help="Falling thresholds of the sampling runs; by default each count gets about as many steps.",
        rich_help_panel=options.SAMPLING,
    ),
]
LoopWarmupOpt = Annotated[
    int,
    typer.Option(
        "--warmup-steps",
        min=1,
        metavar="N",
        help="First distances that set the thresholds' scale.",
        rich_help_panel=options.SAMPLING,
    ),
]
LoopImagesOpt = Annotated[
    int | None,
    typer.Option(
        "--num-images",
        min=1,
        metavar="N",
        help="Images of the engine's sampling run; one batch if not given. The papers' loop makes the first two.",
        rich_help_panel=options.SAMPLING,
    ),
]
COLUMNS = ("what", "GMACs", "done", "seconds", "images/s", "MiB", "x plain", "x dense")
"""Narrow enough for 80 characters a line."""
FORWARD_TITLES = {"unabsorbed": ", all q and k", "plain": ", papers' way"}
"""What follows the mediator count."""
LOOP_TITLES = {"dense": "engine", "engine": "engine", "plain": "plain loop"}


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
    train: TrainOpt = False,
    vae: VaeOpt = None,
) -> None:
    """Time network calls with each mediator count against full attention, and sampling against the papers' loop.

    That loop makes one image at a time, calls the network twice a step, writes every softmax out and resizes the
    position biases in each call. The defaults take about a minute on one thread. --train times a training step instead.

    Examples:
        medcli bench
        medcli bench SiT-XL/2 --res 512 --mediators 16,64 --layers 0-3 --dtype bf16 --compile
        medcli bench --train --threads 1
    """
    from medcli.workflows.bench.loops import LoopSettings
    from medcli.workflows.bench.run import BenchRequest
    from medcli.workflows.bench.run import bench as run
    from medcli.workflows.bench.settings import BenchSettings
    from medcli.workflows.bench.subject import Shape
    from medcli.workflows.bench_train.run import BenchTrainRequest, bench_train

    refuse_idle_flags(ctx, is_training=train)
    out = output_of(ctx)
    settings = BenchSettings(
        model=model,
        family=family,
        num_heads=heads,
        shape=Shape(
            resolution_px=res,
            mediators=None if mediators is None else () if mediators == "none" else options.parse_ints(mediators),
            layers=None if layers is None else lambda depth: parse_layers(layers, depth),
        ),
        batch_size=batch_size,
        dtype=dtype,
        compiled=compiled,
        repeats=repeats,
        device=device,
        num_threads=threads,
    )
    if train:
        measured = bench_train(BenchTrainRequest(settings=settings, vae=vae), out)
        out.result(measured, training_summary(measured))
        return
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
    """What a person sees: where it ran, a table of network calls, and one of sampling runs if there were any."""
    from rich.console import Group
    from rich.text import Text

    machine = machine_words(report.machine, report.device, report.threads)
    network = f"{report.model}, {report.resolution_px} px, {report.num_tokens} tokens, {report.dtype}"
    compiled = ", compiled" if report.compiled else ""
    head = Text(f"{network}{compiled}, batches of {report.batch_size}; {machine}")
    forwards = [row for row in report.rows if row.group == "forward"]
    loops = [row for row in report.rows if row.group == "loop"]
    return Group(head, forward_table(forwards, report), *([loop_table(loops, report)] if loops else []))


def forward_table(rows: list[BenchRow], report: BenchReport) -> Table:
    """Rows for full attention and for each mediator count, with and without absorption and in the papers' way."""
    cells = [(_counts(row) + FORWARD_TITLES.get(row.variant, "") + _dtype(row, report), *_cells(row)) for row in rows]
    remarks = [
        f"one network call; seconds: median of {report.repeats} interleaved runs, {CLOCKS[report.clock]}, "
        "and half the distance of the quartiles",
        "GMACs: of an image, as the papers count; done: without the queries and keys that are multiplied into few "
        "mediators, so never computed",
        f"MiB: at most, beyond the weights' {report.weights_mib:,.0f} MiB",
        "x plain: against the network as the papers' code computes it, with the same count; x dense: against full "
        "attention; above 1 is faster",
    ]
    if report.layers:
        remarks.append(f"mediators in {len(report.layers)} of {report.depth} blocks")
    return table_of(COLUMNS, cells, caption="\n".join(remarks))


def loop_table(rows: list[BenchRow], report: BenchReport) -> Table:
    """A row for the engine with full attention, the engine with mediators, and the papers' loop: one sampling run."""
    titles = [f"{LOOP_TITLES[row.variant]}, {_counts(row)}" for row in rows]
    cells = [(title + _dtype(row, report), *_cells(row)) for title, row in zip(titles, rows, strict=True)]
    rho = f", thresholds {','.join(f'{value:.3g}' for value in report.rho)}" if report.rho else ""
    remarks = [f"{report.steps} solver steps of the SDE{rho}"]
    remarks += [
        f"{title}: {row.num_images} images; calls of an image, at each count: "
        + " ".join(f"{calls:g}" for calls in row.calls or ())
        for title, row in zip(titles, rows, strict=True)
    ]
    if report.agreement is not None:
        agreed = report.agreement
        moves = "the same moves" if agreed.same_moves else "other moves"
        remarks.append(
            f"engine and plain loop, same noise, {agreed.num_images} images: "
            f"latents differ by {agreed.max_relative_difference:.1e} at most, relative; {moves} along the ladder"
        )
    return table_of(COLUMNS, cells, caption="\n".join(remarks))


def _counts(row: BenchRow) -> str:
    """The mediator counts of a row."""
    return ",".join(map(str, row.mediators)) or "full"


def _dtype(row: BenchRow, report: BenchReport) -> str:
    """The number format of a row where it is not the report's."""
    return "" if row.dtype == report.dtype else f", {row.dtype}"


def _cells(row: BenchRow) -> tuple[object, ...]:
    """All columns but the first."""
    peak, seconds = row.peak_memory_mib, row.seconds
    spread = (seconds.q3 - seconds.q1) / 2 / seconds.median
    return (
        f"{row.gmacs:.4g}",
        f"{row.gmacs_done:.4g}",
        f"{seconds.median:.4g} ±{100 * spread:.0f}%",
        f"{row.images_per_sec:.4g}",
        None if peak is None else f"{peak:,.0f}",
        None if row.ratio_to_plain is None else f"{row.ratio_to_plain:.2f}",
        f"{row.ratio_to_dense:.2f}{f' {SLOWER}' if row.is_slower else ''}",
    )
