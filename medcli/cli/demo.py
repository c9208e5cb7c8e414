"""`medcli demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medcli.cli.command import Command
from medcli.cli.output import Output
from medcli.cli.sample import switch_table
from medcli.cli.table import table_of
from medcli.cli.text import Prose, fixed, sign
from medcli.runtime.text import macs_text, measured
from medcli.settings.pages import DemoRequest

if TYPE_CHECKING:
    from rich.console import Group

    from medcli.workflows.demo.report import DemoReport


def demo(request: DemoRequest, out: Output) -> None:
    """Run `medcli demo`."""
    from medcli.workflows.demo.run import run_demo

    report = run_demo(request, out)
    out.result(report, summary(report))
    folder = Path(report.output)
    out.hint(f"see {folder / 'demo.png'}, {folder / 'demo-large.png'} and {folder / 'switches.png'}")


COMMAND = Command(
    request=DemoRequest,
    run=demo,
    details="All variants are sampled and scored; the same command again shows the table of the finished run.",
    examples=("medcli demo", "medcli demo --num-images 50 --seed 1 -o demo-1"),
)


def summary(report: DemoReport) -> Group:
    """The comparison, when the dynamic images moved up the ladder, and the verdict."""
    from rich.console import Group

    from medcli.workflows.demo.report import verdict

    columns = ("attention", "calls", "MACs", "saved %", "s/image", "error", "FID", "right %")
    rows = [
        (
            row.variant,
            f"{row.nfe:g}",
            macs_text(row.gmacs_per_image),
            f"{row.saving_percent:.1f}",
            fixed(row.images_per_sec and 1 / row.images_per_sec, ".3f"),
            fixed(row.error, ".3f"),
            "-" if row.fid is None else measured(row.fid, row.fid_standard_error, sign("±", "+-")),
            f"{row.label_agreement_percent:.0f}",
        )
        for row in report.rows
    ]
    numbers = " and ".join(str(number) for number in dict.fromkeys(row.num_images for row in report.rows))
    caption = "\n".join(
        (
            f"{numbers} images each, the same noise; calls and MACs of an image, s/image: wall-clock",
            "saved: against the first row of the same size",
            "error: relative distance to the exact path of full attention; the SDE has none",
            f"FID against {report.num_reference:,} real images, features of the bundled classifier; "
            "right: images it assigns to their class",
        )
    )
    return Group(
        Prose(f"wrote {report.output}"),
        table_of(columns, rows, caption=caption, optional=("saved %", "error", "s/image")),
        switch_table(report.dynamic),
        Prose(f"\nverdict: {verdict(report.rows)}."),
    )
