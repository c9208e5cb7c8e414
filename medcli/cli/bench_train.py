"""`medcli bench --train`: options of its own, and what people see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from medcli.cli.bench_words import CLOCKS, SLOWER, machine_words
from medcli.cli.idle_flags import refuse_given
from medcli.cli.output import table_of

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from medcli.workflows.bench_train.report import BenchTrainReport, BenchTrainRow

TRAINING = "Training"
NOT_FOR_TRAINING = ("steps", "num_images", "rho", "warmup_steps")
"""Parameters of sampling runs."""
FOR_TRAINING = ("vae",)

TrainOpt = Annotated[
    bool,
    typer.Option(
        "--train",
        help="Time a training step against a plain loop as the papers' scripts write it, instead.",
        rich_help_panel=TRAINING,
    ),
]
VaeOpt = Annotated[
    str | None,
    typer.Option(
        "--vae",
        metavar="NAME|PATH",
        help="Let the plain loop encode its images in every step with this autoencoder; ours has latents.",
        rich_help_panel=TRAINING,
    ),
]
COLUMNS = (
    "training step", "mediators", "images", "GMACs", "seconds", "quartiles", "images/s", "peak MiB", "x plain", "",
)  # fmt: skip
TITLES = {"medcli": "medcli", "plain": "plain loop"}


def refuse_idle_flags(ctx: typer.Context, *, is_training: bool) -> None:
    """Refuse a flag that was given and means nothing for what is measured.

    Raises:
        ConfigError: Naming it.
    """
    names = NOT_FOR_TRAINING if is_training else FOR_TRAINING
    refuse_given(ctx, names, where=f"{'with' if is_training else 'without'} --train")


def training_summary(report: BenchTrainReport) -> Group:
    """Where it ran, and a row for each side at each count."""
    from rich.console import Group
    from rich.text import Text

    machine = machine_words(report.machine, report.device, report.threads)
    head = f"{report.model}, {report.resolution_px} px, {report.num_tokens} tokens, {report.num_params:,} parameters"
    return Group(Text(f"{head}; {machine}"), _table(report))


def _table(report: BenchTrainReport) -> Table:
    remarks = [
        f"a step: forward, backward, norm of the gradient, AdamW, moving average; median of {report.repeats} "
        f"interleaved steps, {CLOCKS[report.clock]}",
        f"x plain: above 1 is faster; peak MiB: beyond weights, moments and averages ({report.lasting_mib:,.0f} MiB)",
        *(
            f"losses of {agreed.num_steps} steps, {_attention(agreed.num_mediators)}: "
            f"differ by {agreed.max_relative_difference:.1e} at most, relative"
            for agreed in report.agreements
        ),
    ]
    if report.layers:
        remarks.append(f"mediators in {len(report.layers)} of {report.depth} blocks")
    return table_of(COLUMNS, map(_cells, report.rows), caption="\n".join(remarks))


def _attention(count: int) -> str:
    return f"{count} mediators" if count else "full attention"


def _cells(row: BenchTrainRow) -> tuple[object, ...]:
    kind = f"{TITLES[row.variant]}, {row.dtype}" + (", compiled" if row.compiled else "")
    return (
        kind + (", encodes images" if row.encodes else ""),
        row.num_mediators or None,
        row.num_images,
        f"{row.gmacs:.4g}",
        f"{row.seconds.median:.4g}",
        f"{row.seconds.q1:.4g} to {row.seconds.q3:.4g}",
        f"{row.images_per_sec:.4g}",
        None if row.peak_memory_mib is None else f"{row.peak_memory_mib:,.0f}",
        f"{row.ratio_to_plain:.2f}",
        SLOWER if row.is_slower else "",
    )
