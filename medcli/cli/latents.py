"""`medcli latents`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from medcli.cli.command import Command
from medcli.cli.output import Output
from medcli.cli.table import table_of
from medcli.settings.latents import LatentsRequest

if TYPE_CHECKING:
    from medcli.cli.table import FittedTable
    from medcli.workflows.latents import LatentsReport


def latents(request: LatentsRequest, out: Output) -> None:
    """Run `medcli latents`."""
    from medcli.workflows.latents import make_latents

    if report := make_latents(request, out):
        out.result(report, summary(report))
        out.hint(f"medcli finetune CHECKPOINT --data {shlex.quote(report.output)}")


COMMAND = Command(
    request=LatentsRequest,
    run=latents,
    details="Mean and variance of each image's latent are stored, so that training draws new latents each time,\n"
    "as the references do. The same command again encodes what is missing.",
    examples=(
        "medcli latents imagenet/train -o imagenet-latents",
        "medcli latents photos --res 512 --vae sd-vae-ft-ema --dtype bf16",
        "medcli latents photos/labels.csv --no-flip --storage fp16",
    ),
)


def summary(report: LatentsReport) -> FittedTable:
    """Describe the output, with the statistics of each channel."""
    shape = " x ".join(map(str, report.latent_shape))
    rate = "" if report.images_per_sec is None else f", {report.images_per_sec:.3g} images/s"
    counts = f"{report.num_images} images of {report.num_classes} classes, {report.num_new} new{rate}"
    caption = (
        f"wrote {report.output}: {counts}\n"
        f"latents of {shape} in {report.num_shards} shard{'s' * (report.num_shards > 1)}\n"
        "scaled; training expects a standard deviation near 1"
    )
    rows = [
        (channel, f"{mean:.4f}", f"{std:.4f}")
        for channel, (mean, std) in enumerate(zip(report.mean, report.std, strict=True))
    ]
    return table_of(("channel", "mean", "std"), rows, caption=caption)
