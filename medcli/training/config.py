"""Settings of a training run, validated on construction."""

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
"""Values of `resume` beside a path."""

FREE = frozenset(
    {
        *("steps", "save_every", "log_every", "keep_last", "resume", "max_rollbacks"),
        *("micro_batch_size", "compile", "checkpoint_activations"),
    }
)
"""Settings that may change on a resume: the first six alter no number, the others only rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Settings of a training run.

    Raises:
        ConfigError: If a value is unknown or out of range.
    """

    steps: int
    """Total optimizer steps, those before a resume included."""
    global_batch_size: int = 256
    """Images per optimizer step, over all processes."""
    micro_batch_size: int | None = None
    """Images per forward pass in one process; None: its whole share of a step."""
    lr: float = 1e-4
    """Learning rate; the initial one if it decays."""
    lr_decay: tuple[float, int] | None = None
    """Final learning rate of a linear decay, and the steps it takes; None: constant."""
    optimizer: OptimizerName = "adamw"
    """`adan`: used for EDT and MDTv2."""
    ema: float = 0.9999
    """Decay of the moving average of weights."""
    grad_clip: float = 1.0
    """Maximum gradient norm; infinity disables clipping."""
    label_dropout: float = 0.1
    """Label-dropout probability, for classifier-free guidance."""
    counts: tuple[int, ...] = (0,)
    """Mediator counts trained together, 0 for full attention."""
    ladder_rule: str = "sandwich"
    """Rule that chooses a step's counts, see `counts_of_step`."""
    loss: LossConfig = PLAIN_LOSS
    """Settings of the loss."""
    timesteps: TimestepRule = "even"
    """Timestep sampling: `even`, or `loss` by recent losses (`timestep_sampler`; not for SiT)."""
    masking: Masking | None = None
    """Settings of a second pass with dropped tokens in each step; None: none."""
    dtype: Dtype = "fp32"
    """Autocast data type of the blocks; weights, averages and all else stay float32."""
    compile: bool = False
    """Use torch.compile (slow first steps)."""
    checkpoint_activations: bool = False
    """Activation checkpointing: recompute blocks in the backward pass; less memory, a third more time."""
    seed: int = 0
    """Random seed of data order, noise, times, counts and label dropout."""
    save_every: int = 500
    """Steps between training checkpoints."""
    log_every: int = 50
    """Steps between lines of `metrics.jsonl`, and between checks of the losses."""
    keep_last: int = 2
    """Training checkpoints kept."""
    spike_factor: float = 3.0
    """A loss this many times the recent median, and far outside its range, is a spike, see `spikes`."""
    max_rollbacks: int = 3
    """Maximum bad steps skipped within any 1000 steps; with one more the run stops."""
    skip_steps: tuple[int, ...] = ()
    """Steps, from 1, to skip."""
    resume: str = AUTO
    """`auto`: from the newest training checkpoint in the output folder; `never`: start over; else the path of one."""

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
            raise ConfigError("no mediator count to train", hint="name some, or 0 for full attention")
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
            raise ConfigError(f"--grad-clip must be positive, got {self.grad_clip}", hint="try 1")
        if not 0 <= self.label_dropout < 1:
            raise ConfigError(f"--label-dropout must be in [0, 1), got {self.label_dropout}", hint="try 0.1")
        if not self.spike_factor > 1:
            raise ConfigError(f"the spike factor must be above 1, got {self.spike_factor}", hint="try 3")

    def check_family(self, family: Family) -> None:
        """Refuse settings that a family can't be trained with.

        Raises:
            ConfigError: If timesteps are drawn by loss for a family without integer timesteps.
        """
        if self.timesteps == "loss" and family == "sit":
            raise ConfigError(
                "--timesteps loss needs integer timesteps, which SiT models do not have",
                hint="leave --timesteps out",
            )

    def lr_at(self, done: int) -> float:
        """Return the learning rate after this many steps."""
        if self.lr_decay is None:
            return self.lr
        floor, num_steps = self.lr_decay
        return linear_decay(self.lr, done, floor=floor, num_steps=num_steps)

    def fixed(self) -> dict[str, Any]:
        """Return the settings that a resumed run must not change, as plain JSON values."""
        values = {key: value for key, value in asdict(self).items() if key not in FREE}
        loss = values.pop("loss")
        del values["counts"]
        if self.optimizer == "adamw":  # not in checkpoints of versions without the choice
            del values["optimizer"]
        if values.pop("timesteps") != "even":  # likewise
            values["way to draw timesteps"] = self.timesteps
        return {**values, **loss, "entries": list(self.counts), "skip_steps": list(self.skip_steps)}


def _require_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
