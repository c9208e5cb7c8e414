"""Options of the optimiser and of what follows it. Loads no torch."""

from __future__ import annotations

from typing import Annotated

import typer

from medcli.cli import options
from medcli.cli.finetune_options import TRAINING
from medcli.errors import ConfigError

LrOpt = Annotated[float, typer.Option("--lr", metavar="X", help="Learning rate.", rich_help_panel=TRAINING)]
LrDecayOpt = Annotated[
    str | None,
    typer.Option(
        "--lr-decay",
        metavar="X,STEPS",
        help="Have the learning rate fall evenly to X over so many steps; EDT: 5e-5,400000.",
        rich_help_panel=TRAINING,
    ),
]
OptimizerOpt = Annotated[
    str,
    options.choice(
        "--optimizer",
        choices=("adamw", "adan"),
        help="Adan is what EDT and MDTv2 were trained with; it keeps twice as much.",
        panel=TRAINING,
    ),
]
GradClipOpt = Annotated[
    float,
    typer.Option("--grad-clip", metavar="X", help="Largest norm of the gradient; inf: any.", rich_help_panel=TRAINING),
]
EmaOpt = Annotated[
    float,
    typer.Option("--ema", metavar="X", help="Decay of the averaged weights, in [0, 1).", rich_help_panel=TRAINING),
]


def parse_lr_decay(text: str) -> tuple[float, int]:
    """Read `5e-5,400000`.

    Raises:
        ConfigError: If it is not a number and a whole number.
    """
    try:
        rate, steps = text.split(",")
        return float(rate), int(steps)
    except ValueError as err:
        raise ConfigError(f"--lr-decay {text!r} is not X,STEPS", hint="write it like --lr-decay 5e-5,400000") from err
