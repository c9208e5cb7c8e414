"""Options of `medcli finetune` that no other command has. Loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from medcli.cli import options
from medcli.sampler_config import PathName, PredictionName

TRAINING = "Training"
LADDER = "Ladder"
LOSS = "Loss"
SAVING = "Saving"
SEEING = "Seeing"

DataOpt = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="PATH|digits",
        help="Folder of images (a sub-folder a class, or a file of labels), latents, or the bundled digits.",
        rich_help_panel=options.INPUT,
    ),
]
PresetOpt = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help="Train a named size such as SiT-S/2 from scratch, without CHECKPOINT.",
        rich_help_panel=options.INPUT,
    ),
]
VaeOpt = Annotated[
    str | None,
    typer.Option(
        "--vae",
        metavar="NAME|PATH|none",
        help="Autoencoder, a folder or a cached hub name; none: a preset for pixels.",
        rich_help_panel=options.INPUT,
    ),
]
FlipOpt = Annotated[
    bool,
    typer.Option("--flip/--no-flip", help="Mirror half of all draws; digits never are.", rich_help_panel=options.INPUT),
]

StepsOpt = Annotated[
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
    typer.Option(
        "--global-batch-size", min=1, metavar="N", help="Images per step, all processes.", rich_help_panel=TRAINING
    ),
]
MicroBatchOpt = Annotated[
    int | None,
    typer.Option(
        "--micro-batch-size",
        min=1,
        metavar="N",
        help="Images a process takes at once; fewer need less memory. Without it: all on a GPU, a few on a CPU.",
        rich_help_panel=TRAINING,
    ),
]
LabelDropoutOpt = Annotated[
    float,
    typer.Option(
        "--label-dropout", metavar="P", help="Share of labels dropped, for guidance.", rich_help_panel=TRAINING
    ),
]
TrainOpt = Annotated[
    str,
    options.choice(
        "--train",
        choices=("all", "attention"),
        help="Everything, or the attention of the blocks with mediators alone (q, k, v, proj, convolution, tables).",
        panel=TRAINING,
    ),
]
FreezeOpt = Annotated[
    str | None,
    typer.Option(
        "--freeze",
        metavar="NAME,...",
        help="Parts that stay as they are, such as blocks.0 or y_embedder.",
        rich_help_panel=TRAINING,
    ),
]
SeedOpt = Annotated[
    int,
    typer.Option(
        "--seed", min=0, max=2**64 - 1, metavar="N", help="Start of all randomness.", rich_help_panel=TRAINING
    ),
]

LadderRuleOpt = Annotated[
    str,
    options.choice(
        "--ladder-rule",
        choices=("sandwich", "split"),
        help="A step trains one count (largest, smallest, a random one in turn), or each a part of its images.",
        panel=LADDER,
    ),
]
TrainDenseOpt = Annotated[
    bool | None,
    typer.Option(
        "--train-dense/--no-train-dense",
        help="Train full attention along; without either flag, where there are several counts.",
        rich_help_panel=LADDER,
    ),
]
CalibrateOpt = Annotated[
    bool,
    typer.Option(
        "--calibrate", help="First fit the mediators to full attention, without data.", rich_help_panel=LADDER
    ),
]
DistillOpt = Annotated[
    Path | None,
    typer.Option(
        "--distill",
        metavar="TEACHER",
        help="Learn from this checkpoint's full attention as well as from the data.",
        rich_help_panel=LADDER,
    ),
]
DistillWeightOpt = Annotated[
    float | None,
    typer.Option(
        "--distill-weight",
        metavar="W",
        help="The teacher's share of the loss, in (0, 1]; 0.5 if not given.",
        rich_help_panel=LADDER,
    ),
]
ControlOpt = Annotated[
    bool,
    typer.Option(
        "--control",
        help="Also train with full attention alone for as many steps, and compare the losses.",
        rich_help_panel=LADDER,
    ),
]
EvaluateOpt = Annotated[
    int | None,
    typer.Option(
        "--eval-images",
        min=0,
        metavar="N",
        help="Images for the loss of each count before and after; without it, 512 with --control, else none.",
        rich_help_panel=LADDER,
    ),
]

PathOpt = Annotated[
    str | None,
    options.choice(
        "--path",
        choices=get_args(PathName),
        help="Interpolant of a SiT model; without it the checkpoint's, or linear.",
        panel=LOSS,
    ),
]
PredictionOpt = Annotated[
    str | None,
    options.choice(
        "--prediction",
        choices=get_args(PredictionName),
        help="What a SiT model predicts; without it the checkpoint's, or velocity.",
        panel=LOSS,
    ),
]
LossWeightOpt = Annotated[
    str,
    options.choice(
        "--loss-weight",
        choices=("none", "velocity", "likelihood"),
        help="Weight over time of SiT's noise and score losses.",
        panel=LOSS,
    ),
]

MinSnrOpt = Annotated[
    float | None,
    typer.Option(
        "--min-snr",
        min=0,
        metavar="G",
        help="Min-SNR's limit: steps with little noise count less; 0: all alike. Without it 5 for EDT, MDTv2.",
        rich_help_panel=LOSS,
    ),
]
TimestepsOpt = Annotated[
    str,
    options.choice(
        "--timesteps",
        choices=("even", "loss"),
        help="Draw timesteps evenly, or those with large losses more often, as EDT was trained. Not for SiT.",
        panel=LOSS,
    ),
]
DtypeOpt = Annotated[
    str,
    options.choice(
        "--dtype",
        choices=("fp32", "bf16", "fp16"),
        help="Number format of the blocks' products; all else is fp32.",
        panel=options.MACHINE,
    ),
]
CompileOpt = Annotated[
    bool,
    typer.Option(
        "--compile", help="Compile the network: minutes first, then quicker.", rich_help_panel=options.MACHINE
    ),
]
CheckpointingOpt = Annotated[
    bool,
    typer.Option(
        "--checkpoint-activations",
        help="Compute each block twice instead of keeping it: less memory.",
        rich_help_panel=options.MACHINE,
    ),
]

ResumeOpt = Annotated[
    str,
    typer.Option(
        "--resume",
        metavar="auto|never|PATH",
        help="Go on from what --output holds, start over, or go on from a saved state.",
        rich_help_panel=SAVING,
    ),
]
SaveEveryOpt = Annotated[
    int, typer.Option("--save-every", min=1, metavar="N", help="Steps between saved states.", rich_help_panel=SAVING)
]
KeepLastOpt = Annotated[
    int, typer.Option("--keep-last", min=1, metavar="N", help="Saved states that are kept.", rich_help_panel=SAVING)
]

LogEveryOpt = Annotated[
    int,
    typer.Option(
        "--log-every", min=1, metavar="N", help="Steps between lines of metrics.jsonl.", rich_help_panel=SEEING
    ),
]
PreviewEveryOpt = Annotated[
    int,
    typer.Option(
        "--preview-every",
        min=0,
        metavar="N",
        help="Steps between pictures, drawn with the next saved state and at the end; 0: none.",
        rich_help_panel=SEEING,
    ),
]
TensorboardOpt = Annotated[
    bool, typer.Option("--tensorboard", help="Write TensorBoard event files, too.", rich_help_panel=SEEING)
]
WandbOpt = Annotated[bool, typer.Option("--wandb", help="Log to Weights & Biases, too.", rich_help_panel=SEEING)]

RunOpt = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="DIR",
        help="Folder of the run; without it, the name of the data under runs.",
        parser=options.parse_output,
        rich_help_panel=options.OUTPUT,
    ),
]
DryRunOpt = Annotated[
    bool,
    typer.Option(
        "-n",
        "--dry-run",
        help="Show what would be trained and its measured memory and time; write nothing.",
        rich_help_panel=options.OUTPUT,
    ),
]
