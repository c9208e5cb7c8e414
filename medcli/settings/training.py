"""Settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medcli.settings.declare import (
    CHECKPOINTS,
    LADDER,
    LOGGING,
    LOSS,
    MACHINE,
    TRAINING,
    Needs,
    count_setting,
    setting,
)
from medcli.settings.machine import MAX_BATCH, seed_setting
from medcli.settings.network import parse_name
from medcli.settings.parsers import parse_float, parse_int

OptimizerName = Literal["adamw", "adan"]
LadderRule = Literal["sandwich", "split"]
TimestepRule = Literal["even", "loss"]
Dtype = Literal["fp32", "bf16", "fp16"]
MaskPlace = Literal["down", "input"]
Weighting = Literal["none", "velocity", "likelihood"]
Range = tuple[float, float]
LrDecay = Literal["none", "cosine"] | tuple[float, int]

MAX_STEPS = 10**9
"""Optimizer steps."""
PIXELS = "none"
"""Value of `--vae` for a model of pixels trained from scratch."""


def parse_lr_decay(text: str) -> LrDecay:
    """Parse `none`, `cosine` or `5e-5,400000`."""
    if text == "none":
        return "none"
    if text == "cosine":
        return "cosine"
    rate, steps = text.split(",")
    return parse_float(rate), parse_int(steps)


def format_lr_decay(value: LrDecay) -> str:
    """Format a decay as `parse_lr_decay` reads it."""
    return value if isinstance(value, str) else f"{value[0]!r},{value[1]}"


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Steps, optimizer, number format and checkpoints of a training run."""

    steps: int = count_setting(
        1000,
        MAX_STEPS,
        help="Total number of optimizer steps, those before a resume included.",
        panel=TRAINING,
        short=True,
    )
    global_batch_size: int = count_setting(
        256, MAX_BATCH, help="Number of images per optimizer step, over all processes.", panel=TRAINING, short=True
    )
    micro_batch_size: int | None = count_setting(
        None,
        MAX_BATCH,
        help="Number of images per forward pass of a process; fewer need less memory.",
        panel=TRAINING,
        default_text="all on a GPU, a few on a CPU",
    )
    lr: float = setting(1e-4, help="Learning rate.", panel=TRAINING, metavar="X", above=0, example="1e-4", short=True)
    """Peak value, after the warm-up."""
    lr_warmup: int = count_setting(
        0, MAX_STEPS, help="Number of steps over which the learning rate rises from 0.", panel=TRAINING, minimum=0
    )
    lr_decay: LrDecay = setting(
        "none",
        help="Decay of the learning rate: a cosine over all steps, or linear to X over STEPS steps (EDT: 5e-5,400000).",
        panel=TRAINING,
        metavar="none|cosine|X,STEPS",
        parse=parse_lr_decay,
        format=format_lr_decay,
        expects="none, cosine, or X,STEPS",
        example="cosine",
    )
    lr_end: float = setting(
        0.0,
        help="Learning rate at the end of the cosine.",
        panel=TRAINING,
        metavar="X",
        minimum=0,
        needs=Needs("lr_decay", ("cosine",), words="--lr-decay cosine"),
        example="1e-5",
    )
    optimizer: OptimizerName = setting(
        "adamw", help="adan: used for EDT/MDTv2, twice the optimizer state.", panel=TRAINING
    )
    ema: float = setting(
        0.9999,
        help="Decay of the exponential moving average of the weights, in [0, 1).",
        panel=TRAINING,
        metavar="X",
        minimum=0,
        below=1,
    )
    grad_clip: float = setting(
        1.0,
        help="Maximum gradient norm; inf disables clipping.",
        panel=TRAINING,
        metavar="X",
        above=0,
        finite=False,
    )
    label_dropout: float = setting(
        0.1,
        help="Label-dropout probability (for classifier-free guidance).",
        panel=TRAINING,
        metavar="P",
        minimum=0,
        below=1,
    )
    seed: int = seed_setting(TRAINING)
    ladder_rule: LadderRule = setting(
        "sandwich",
        help="A step trains one count (largest, smallest, a random one in turn), or each on a part of its images.",
        panel=LADDER,
    )
    timesteps: TimestepRule = setting(
        "even",
        help="Draw timesteps uniformly, or those with large losses more often, as EDT was trained. Not for SiT.",
        panel=LOSS,
    )
    dtype: Dtype = setting(
        "fp32", help="Number format of the blocks' products; all else is fp32.", panel=MACHINE, short=True
    )
    compile: bool = setting(
        False, help="Use torch.compile, one graph per mediator count (slow first steps).", panel=MACHINE
    )
    checkpoint_activations: bool = setting(
        False, help="Activation checkpointing: recompute blocks in the backward pass.", panel=MACHINE
    )
    resume: str = setting(
        "auto",
        help="Resume from what --output holds, start over, or resume from a training checkpoint.",
        panel=CHECKPOINTS,
        metavar="auto|never|PATH",
        parse=parse_name,
        expects="auto, never or a path",
    )
    save_every: int = count_setting(
        500, MAX_STEPS, help="Number of steps between training checkpoints.", panel=CHECKPOINTS
    )
    keep_last: int = count_setting(2, MAX_STEPS, help="Number of training checkpoints to keep.", panel=CHECKPOINTS)
    log_every: int = count_setting(
        100, MAX_STEPS, help="Number of steps between lines of metrics.jsonl.", panel=LOGGING
    )
