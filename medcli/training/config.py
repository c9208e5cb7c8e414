"""What a training run is: every setting, checked when it is made."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from medcli.config import Family
from medcli.errors import ConfigError
from medcli.training.learning_rate import linear_decay
from medcli.training.masking import Masking
from medcli.training.objective import PLAIN_LOSS, LossConfig
from medcli.training.optimizers import OptimizerName

Dtype = Literal["fp32", "bf16", "fp16"]
TimestepRule = Literal["even", "loss"]
LADDER_RULES = ("sandwich", "split")
"""Ways to spread a run's mediator counts over its steps, see `batches.counts_of_step`."""
AUTO, NEVER = "auto", "never"
"""What `resume` says beside a path."""

FREE = frozenset(
    {
        *("steps", "save_every", "log_every", "keep_last", "resume", "max_rollbacks"),
        *("micro_batch_size", "compile", "checkpoint_activations"),
    }
)
"""Settings that may change when a run is continued: the first six alter no number, the others its rounding alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run.

    Raises:
        ConfigError: If a value is unknown or out of range.
    """

    steps: int
    """Optimiser steps in all, those before a resume included."""
    global_batch_size: int = 256
    """Images per optimiser step, over all processes."""
    micro_batch_size: int | None = None
    """Images one process takes through the network at once; None: its whole share of a step."""
    lr: float = 1e-4
    """Learning rate, at the start if it falls."""
    lr_decay: tuple[float, int] | None = None
    """Learning rate at the end of its fall, and the steps it takes to get there; None: it is constant."""
    optimizer: OptimizerName = "adamw"
    """`adan` is what EDT and MDTv2 were trained with."""
    ema: float = 0.9999
    """Decay of the moving average."""
    grad_clip: float = 1.0
    """Largest norm of the gradient; infinity: no limit."""
    label_dropout: float = 0.1
    """Share of labels replaced by the null class, for guidance."""
    counts: tuple[int, ...] = (0,)
    """Mediator counts trained together, 0 for full attention."""
    ladder_rule: str = "sandwich"
    """Which counts a step trains, see `counts_of_step`."""
    loss: LossConfig = PLAIN_LOSS
    """What is minimised."""
    timesteps: TimestepRule = "even"
    """How times are drawn: `even`, or `loss`, by their latest losses (`timestep_draws`), which SiT's can't be."""
    masking: Masking | None = None
    """Every step adds a second pass in which some tokens are left out, and its loss; None: one pass."""
    dtype: Dtype = "fp32"
    """Of the products inside the blocks; weights, averages and all else stay float32."""
    compile: bool = False
    """Compile the network: minutes at the start, quicker steps."""
    checkpoint_activations: bool = False
    """Keep only the blocks' inputs between the passes and run each block again: less memory, a third more time."""
    seed: int = 0
    """Of data order, noise, times, counts and label dropout."""
    save_every: int = 500
    """Steps between saved states."""
    log_every: int = 50
    """Steps between lines of `metrics.jsonl`, and between looks at the losses."""
    keep_last: int = 2
    """Saved states that are kept."""
    spike_factor: float = 3.0
    """A loss this many times the recent median, and far outside its range, is trouble, see `stability`."""
    max_rollbacks: int = 3
    """Batches that may be skipped for trouble within any 1000 steps; with one more the run stops."""
    skip_steps: tuple[int, ...] = ()
    """Steps, from 1, whose batch is not trained on."""
    resume: str = AUTO
    """`auto`: go on from what the output holds; `never`: start over; else the path of a state to start from."""

    def __post_init__(self) -> None:
        for name in ("steps", "global_batch_size", "save_every", "log_every", "keep_last"):
            _require_at_least(name, getattr(self, name), 1)
        if self.micro_batch_size is not None:
            _require_at_least("micro_batch_size", self.micro_batch_size, 1)
        _require_at_least("max_rollbacks", self.max_rollbacks, 0)
        self._check_ladder()
        self._check_ranges()
        if self.timesteps not in get_args(TimestepRule):
            raise ConfigError(f"--timesteps {self.timesteps!r}: expected one of {', '.join(get_args(TimestepRule))}")
        if self.dtype not in get_args(Dtype):
            raise ConfigError(f"--dtype {self.dtype!r}: expected one of {', '.join(get_args(Dtype))}")

    def _check_ladder(self) -> None:
        if self.ladder_rule not in LADDER_RULES:
            raise ConfigError(f"unknown ladder rule {self.ladder_rule!r}, expected one of {', '.join(LADDER_RULES)}")
        if not self.counts:
            raise ConfigError("no mediator count is to be trained", hint="name some, or 0 for full attention")
        if self.ladder_rule == "split" and self.global_batch_size < len(self.counts):
            raise ConfigError(
                f"a batch of {self.global_batch_size} cannot give each of {len(self.counts)} ladder counts an image",
                hint=f"use --global-batch-size {len(self.counts)} or more",
            )

    def _check_ranges(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"--lr must be a positive number, got {self.lr}", hint="try --lr 1e-4")
        if self.lr_decay is not None and not (0 < self.lr_decay[0] <= self.lr and self.lr_decay[1] >= 1):
            raise ConfigError(
                f"--lr-decay {self.lr_decay[0]:g},{self.lr_decay[1]}: expected a rate of at most --lr, then steps",
                hint="EDT's is 5e-5,400000",
            )
        if self.optimizer not in get_args(OptimizerName):
            raise ConfigError(f"--optimizer {self.optimizer!r}: expected one of {', '.join(get_args(OptimizerName))}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"--ema must be in [0, 1), got {self.ema}", hint="try --ema 0.999")
        if not self.grad_clip > 0:
            raise ConfigError(f"the gradient's largest norm must be positive, got {self.grad_clip}", hint="try 1")
        if not 0 <= self.label_dropout < 1:
            raise ConfigError(f"label dropout must be in [0, 1), got {self.label_dropout}", hint="try 0.1")
        if not self.spike_factor > 1:
            raise ConfigError(f"the factor that makes a spike must be above 1, got {self.spike_factor}", hint="try 3")

    def check_family(self, family: Family) -> None:
        """Refuse what a family can't be trained with.

        Raises:
            ConfigError: If times are to be drawn by losses, and the family's are no integers.
        """
        if self.timesteps == "loss" and family == "sit":
            raise ConfigError(
                "--timesteps loss counts losses at integer timesteps, and a SiT model has none",
                hint="leave --timesteps out",
            )

    def lr_at(self, done: int) -> float:
        """Learning rate of the step after so many."""
        if self.lr_decay is None:
            return self.lr
        floor, num_steps = self.lr_decay
        return linear_decay(self.lr, done, floor=floor, num_steps=num_steps)

    def fixed(self) -> dict[str, Any]:
        """The settings that a resumed run must share with its beginning, as plain JSON values."""
        values = {key: value for key, value in asdict(self).items() if key not in FREE}
        loss = values.pop("loss")
        del values["counts"]
        if self.optimizer == "adamw":  # states from before there was a choice do not name it
            del values["optimizer"]
        if values.pop("timesteps") != "even":  # nor this
            values["way to draw timesteps"] = self.timesteps
        return {**values, **loss, "entries": list(self.counts), "skip_steps": list(self.skip_steps)}


def _require_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
