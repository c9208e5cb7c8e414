"""`medcli demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medcli.cli import options
from medcli.cli.output import output_of, printable, table_of
from medcli.cli.sample import switch_table

if TYPE_CHECKING:
    from rich.console import Group

    from medcli.workflows.demo import DemoReport

NumImagesOpt = Annotated[
    int, typer.Option("--num-images", min=10, metavar="N", help="Images a variant.", rich_help_panel=options.SAMPLING)
]


def demo(
    ctx: typer.Context,
    num_images: NumImagesOpt = 200,
    seed: options.SeedOpt = 0,
    device: options.DeviceOpt = None,
    output: options.OutputOpt = None,
) -> None:
    """Compare dense, static and dynamic attention on the bundled digits model, minutes on a CPU.

    Everything is really sampled and scored here; the same command again shows the table of the finished run.

    Examples:
        medcli demo
        medcli demo --num-images 50 --seed 1 -o demo-1
    """
    from medcli.workflows.demo import DemoRequest, run_demo

    request = DemoRequest(num_images=num_images, seed=seed, device=device, output=output or Path("demo"))
    out = output_of(ctx)
    report = run_demo(request, out)
    out.result(report, summary(report))
    out.hint(f"look at {Path(report.output) / 'demo.png'} and {Path(report.output) / 'switches.png'}")


def summary(report: DemoReport) -> Group:
    """The comparison, and when the dynamic images moved up the ladder."""
    from rich.console import Group
    from rich.text import Text

    columns = ("attention", "GMACs an image", "saved %", "images/s", "FID", "right digit %")
    rows = [
        (
            row.variant,
            f"{row.gmacs_per_image:.3f}",
            f"{row.saving_percent:.1f}",
            None if row.images_per_sec is None else f"{row.images_per_sec:.2f}",
            f"{row.fid:.2f}",
            f"{row.label_agreement_percent:.1f}",
        )
        for row in report.rows
    ]
    caption = f"{report.num_images} images each; FID against 1,797 real digits, features of the bundled classifier"
    where = Text(f"wrote {printable(report.output)}")
    return Group(where, table_of(columns, rows, caption=caption), switch_table(report.dynamic))
