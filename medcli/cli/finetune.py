"""`medcli finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medcli.cli import options
from medcli.cli.output import details_of, output_of

TRAINING = "Training"

DataOpt = Annotated[
    str, typer.Option("--data", metavar="NAME", help="Data set: digits.", rich_help_panel=options.INPUT)
]
TrainStepsOpt = Annotated[
    int,
    typer.Option(
        "--steps",
        min=1,
        metavar="N",
        help="Optimiser steps in all, those before a resume too.",
        rich_help_panel=TRAINING,
    ),
]
GlobalBatchOpt = Annotated[
    int,
    typer.Option("--global-batch-size", min=1, metavar="N", help="Images per step.", rich_help_panel=TRAINING),
]
LrOpt = Annotated[float, typer.Option("--lr", metavar="X", help="AdamW's learning rate.", rich_help_panel=TRAINING)]
EmaOpt = Annotated[
    float,
    typer.Option("--ema", metavar="X", help="Decay of the averaged weights, in [0, 1).", rich_help_panel=TRAINING),
]
SaveEveryOpt = Annotated[
    int, typer.Option("--save-every", min=1, metavar="N", help="Steps between saved states.", rich_help_panel=TRAINING)
]
LogEveryOpt = Annotated[
    int,
    typer.Option(
        "--log-every", min=1, metavar="N", help="Steps between lines of metrics.jsonl.", rich_help_panel=TRAINING
    ),
]
RunOpt = Annotated[
    Path, typer.Option("-o", "--output", metavar="DIR", help="Folder of the run.", rich_help_panel=options.OUTPUT)
]


def finetune(
    ctx: typer.Context,
    checkpoint: options.OptionalCheckpointArg = None,
    data: DataOpt = "digits",
    output: RunOpt = Path("runs/digits"),
    steps: TrainStepsOpt = 1000,
    global_batch_size: GlobalBatchOpt = 128,
    lr: LrOpt = 1e-4,
    ema: EmaOpt = 0.999,
    seed: options.SeedOpt = 0,
    save_every: SaveEveryOpt = 250,
    log_every: LogEveryOpt = 50,
    family: options.FamilyOpt = None,
    heads: options.HeadsOpt = None,
    weights: options.WeightsOpt = "ema",
) -> None:
    """Train a ladder further: every mediator count and full attention together.

    Trains on the bundled digits; the same command again continues an interrupted run.

    Examples:
        medcli finetune --data digits --steps 20 --output runs/digits
        medcli finetune --steps 2000 --lr 3e-4 -o runs/longer
    """
    from medcli.training.loop import TrainConfig
    from medcli.workflows.finetune import FinetuneRequest
    from medcli.workflows.finetune import finetune as run

    training = TrainConfig(
        steps=steps,
        global_batch_size=global_batch_size,
        lr=lr,
        ema=ema,
        seed=seed,
        save_every=save_every,
        log_every=log_every,
    )
    request = FinetuneRequest(
        output=output,
        training=training,
        checkpoint=checkpoint,
        data=data,
        weights=weights,
        family=family,
        num_heads=heads,
    )
    out = output_of(ctx)
    report = run(request, out)
    out.result(report, details_of(report.to_json()))
    out.hint(f"medcli sample {report.output}")
