"""`medcli report`: one page of pictures and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medcli.cli import options
from medcli.cli.output import output_of


def report(
    ctx: typer.Context,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="INPUT",
            help="Sample folders, fid --json reports, and what analyze and tune wrote; without any, all of ./samples.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="PATH", help="The page.", rich_help_panel=options.OUTPUT)
    ] = Path("report.html"),
    title: Annotated[
        str | None,
        typer.Option("--title", metavar="TEXT", help="Its heading.", rich_help_panel=options.OUTPUT),
    ] = None,
    pictures: Annotated[
        int,
        typer.Option(
            "--pictures", min=0, metavar="N", help="Images shown of each run.", rich_help_panel=options.OUTPUT
        ),
    ] = 24,
    force: options.ForceOpt = False,
) -> None:
    """Write one HTML page of runs: images, switch steps, cost, scores, redundancy, commands and hashes.

    The page stands alone: no scripts, nothing loaded. Inputs are recognised by what they hold.

    Examples:
        medcli report
        medcli report samples/a samples/b scores.json -o page.html
        medcli report samples/a analysis/digits-sit-0 tuning
    """
    from medcli.workflows.report.run import ReportRequest
    from medcli.workflows.report.run import report as run

    out = output_of(ctx)
    request = ReportRequest(inputs=tuple(inputs or ()), output=output, title=title, num_pictures=pictures, force=force)
    made = run(request, out)
    out.result(made)
