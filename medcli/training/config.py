"""Settings of a training run, validated on construction."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from medcli.config import Family
from medcli.errors import ConfigError
from medcli.settings.training import TrainingSettings
from medcli.settings.values import check_values
from medcli.training.learning_rate import linear_decay
from medcli.training.masking import Masking
from medcli.training.objective import PLAIN_LOSS, LossConfig

AUTO, NEVER = "auto", "never"
"""Values of `resume` beside a path."""

FREE = frozenset(
    {
        *("steps", "save_every", "log_every", "keep_last", "resume", "max_rollbacks"),
        *("micro_batch_size", "compile", "checkpoint_activations"),
    }
)
"""Settings that may change on a resume: the first six alter no number, the others only rounding."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(TrainingSettings):
    """A training run: its settings, and the values the network and the data decide.

    Raises:
        ConfigError: If a value is unknown or out of range.
    """

    counts: tuple[int, ...] = (0,)
    """Mediator counts trained together, 0 for full attention."""
    loss: LossConfig = PLAIN_LOSS
    """The training objective."""
    masking: Masking | None = None
    """Masked pass added to every step; None: one pass."""
    spike_factor: float = 3.0
    """A loss this many times the recent median, and far outside its range, is a spike."""
    max_rollbacks: int = 3
    """Number of batches that may be skipped because of spikes within any 1000 steps; with one more the run stops."""
    skip_steps: tuple[int, ...] = ()
    """Steps, from 1, whose batch is not trained on."""

    def __post_init__(self) -> None:
        check_values(self)
        if not self.counts:
            raise ConfigError("no mediator count to train", hint="name some, or 0 for full attention")
        if self.ladder_rule == "split" and self.global_batch_size < len(self.counts):
            raise ConfigError(
                f"a batch of {self.global_batch_size} cannot give each of {len(self.counts)} ladder counts an image",
                hint=f"use --global-batch-size {len(self.counts)} or more",
            )
        if self.lr_decay is not None and not (0 < self.lr_decay[0] <= self.lr and self.lr_decay[1] >= 1):
            raise ConfigError(
                f"--lr-decay {self.lr_decay[0]:g},{self.lr_decay[1]}: expected a rate of at most --lr, then steps",
                hint="EDT's is 5e-5,400000",
            )
        if self.max_rollbacks < 0:
            raise ConfigError(f"max_rollbacks must be at least 0, got {self.max_rollbacks}")
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
