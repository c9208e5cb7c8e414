"""`medcli latents`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medcli.cli.options import INPUT, MACHINE, OUTPUT, DeviceOpt, choice
from medcli.cli.output import output_of, table_of

if TYPE_CHECKING:
    from rich.table import Table

    from medcli.workflows.latents import LatentsReport

DEFAULT_SHARD_SIZE = 512
"""Images a kill can cost: seconds of work on a GPU, and files of 32 MiB for 256 px with flips."""

DataArg = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A folder of images with a sub-folder a class, or with labels in a .json or .csv file; or that file.",
        show_default=False,
    ),
]
OutputOpt = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="DIR",
        help="Folder of the latents; DATA-latents-PX here if not given.",
        rich_help_panel=OUTPUT,
    ),
]
ResOpt = Annotated[
    int, typer.Option("--res", min=1, metavar="PX", help="Side of the square cut out.", rich_help_panel=INPUT)
]
VaeOpt = Annotated[
    str | None,
    typer.Option(
        "--vae",
        metavar="NAME|PATH",
        help="Autoencoder: a diffusers folder, or a hub name in the cache; stabilityai/sd-vae-ft-ema if not given.",
        rich_help_panel=INPUT,
    ),
]
FlipOpt = Annotated[bool, typer.Option("--flip/--no-flip", help="Encode mirrored images, too.", rich_help_panel=OUTPUT)]
StorageOpt = Annotated[str, choice("--storage", choices=("fp32", "fp16"), help="Number format on disk.", panel=OUTPUT)]
ShardSizeOpt = Annotated[
    int,
    typer.Option(
        "--shard-size",
        min=1,
        metavar="N",
        help="Images of a file; a kill costs at most as many.",
        rich_help_panel=OUTPUT,
    ),
]
BatchSizeOpt = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, metavar="N", help="Images encoded in one call.", rich_help_panel=MACHINE),
]
DtypeOpt = Annotated[
    str, choice("--dtype", choices=("fp32", "bf16"), help="Number format of the autoencoder.", panel=MACHINE)
]


def latents(
    ctx: typer.Context,
    data: DataArg,
    res: ResOpt = 256,
    vae: VaeOpt = None,
    output: OutputOpt = None,
    flip: FlipOpt = True,
    storage: StorageOpt = "fp32",
    shard_size: ShardSizeOpt = DEFAULT_SHARD_SIZE,
    batch_size: BatchSizeOpt = None,
    device: DeviceOpt = None,
    dtype: DtypeOpt = "fp32",
) -> None:
    """Encode a data set once, so that fine-tuning reads latents instead of images.

    What the autoencoder says about each image is stored whole, means and variances, so that training draws new latents
    each time, as the references do. The same command again finishes what is missing.

    Examples:
        medcli latents imagenet/train -o imagenet-latents
        medcli latents photos --res 512 --vae sd-vae-ft-ema --batch-size 16 --dtype bf16
        medcli latents photos/labels.csv --no-flip --storage fp16
    """
    from medcli.workflows.latents import LatentsRequest, make_latents

    out = output_of(ctx)
    request = LatentsRequest(
        data=data,
        output=output,
        resolution_px=res,
        vae=vae,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        storage=storage,
        flip=flip,
        shard_size=shard_size,
    )
    if report := make_latents(request, out):
        out.result(report, summary(report))
        out.hint(f"medcli finetune CHECKPOINT --data {shlex.quote(report.output)}")


def summary(report: LatentsReport) -> Table:
    """What a person sees: what was written, and the statistics of each channel."""
    shape = " x ".join(map(str, report.latent_shape))
    rate = "" if report.images_per_sec is None else f", {report.images_per_sec:.3g} images/s"
    counts = f"{report.num_images} images of {report.num_classes} classes, {report.num_new} new{rate}"
    caption = (
        f"wrote {report.output}: {counts}\n"
        f"latents of {shape} in {report.num_shards} shards\nscaled; training expects a std near 1"
    )
    rows = [
        (channel, f"{mean:.4f}", f"{std:.4f}")
        for channel, (mean, std) in enumerate(zip(report.mean, report.std, strict=True))
    ]
    return table_of(("channel", "mean", "std"), rows, caption=caption)
