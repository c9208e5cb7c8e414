"""Options of `medcli tune` alone."""

from __future__ import annotations

from typing import Annotated

import typer

from medcli.cli import options
from medcli.errors import ConfigError

BUDGET = "Budget"
SEARCH = "Search"


def parse_percent(text: str) -> float:
    """Read `20%` or `20`.

    Raises:
        ConfigError: If it is no number.
    """
    try:
        return float(text.strip().removesuffix("%"))
    except ValueError as err:
        raise ConfigError(f"--saving {text!r} is no percentage", hint="write it like --saving 20%") from err


GmacsOpt = Annotated[
    float | None,
    typer.Option(
        "--gmacs", metavar="X", help="Most GMACs an image may cost, as the papers count.", rich_help_panel=BUDGET
    ),
]
MsOpt = Annotated[
    float | None,
    typer.Option(
        "--ms",
        metavar="X",
        help="Most milliseconds an image may take, network calls measured here and now.",
        rich_help_panel=BUDGET,
    ),
]
SavingOpt = Annotated[
    float | None,
    typer.Option(
        "--saving",
        metavar="P%",
        help="Least share of the dense GMACs to save.",
        parser=parse_percent,
        rich_help_panel=BUDGET,
    ),
]
MetricOpt = Annotated[
    str,
    options.choice(
        "--metric",
        choices=("error", "fid"),
        help="Judge by the distance from the dense images, or by FID.",
        panel=SEARCH,
    ),
]
ReferenceOpt = Annotated[
    str | None,
    typer.Option(
        "--reference",
        metavar="NAME|PATH",
        help="What FID is measured against; the checkpoint's if not given.",
        rich_help_panel=SEARCH,
    ),
]
NumImagesOpt = Annotated[
    int,
    typer.Option("--num-images", min=2, metavar="N", help="Images each finalist makes.", rich_help_panel=SEARCH),
]
FinalistsOpt = Annotated[
    int,
    typer.Option("--finalists", min=4, metavar="N", help="Configurations that are run.", rich_help_panel=SEARCH),
]
AgainstRandomOpt = Annotated[
    int,
    typer.Option(
        "--against-random",
        min=0,
        metavar="N",
        help="Set so many random configurations of equal cost beside the choice.",
        rich_help_panel=SEARCH,
    ),
]
CalibrateOpt = Annotated[
    bool,
    typer.Option("--calibrate", help="Fit the mediators put into a dense checkpoint first.", rich_help_panel=SEARCH),
]
