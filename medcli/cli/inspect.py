"""`medcli inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medcli.cli.options import INPUT, FamilyOpt, HeadsOpt
from medcli.cli.output import output_of
from medcli.settings.network import NetworkSource

FileArg = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="A checkpoint of any layout convert reads.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]


def inspect(ctx: typer.Context, file: FileArg, family: FamilyOpt = None, heads: HeadsOpt = None) -> None:
    """Say what a checkpoint is: family, size, resolution, mediators, cost.

    No weights are read and nothing in the file is run.

    Examples:
        medcli inspect sit_xl.pt
        medcli inspect 0400000.pt --json
    """
    from medcli.workflows.inspect import inspect as run_inspect

    output_of(ctx).result(run_inspect(NetworkSource(checkpoint=file, family=family, heads=heads)))
