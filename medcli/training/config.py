"""Settings of a training run, validated on construction."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from medcli.config import Family
from medcli.errors import ConfigError
from medcli.settings.training import TrainingSettings
from medcli.settings.values import check_values
from medcli.training.learning_rate import cosine_decay, linear_decay, warmup_factor
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
        self._check_rate()
        if self.max_rollbacks < 0:
            raise ConfigError(f"max_rollbacks must be at least 0, got {self.max_rollbacks}")
        if not self.spike_factor > 1:
            raise ConfigError(f"the spike factor must be above 1, got {self.spike_factor}", hint="try 3")

    def _check_rate(self) -> None:
        """Refuse a learning rate that rises at its end, or never arrives."""
        decay = self.lr_decay
        if not isinstance(decay, str) and not (0 < decay[0] <= self.lr and decay[1] >= 1):
            raise ConfigError(
                f"--lr-decay {decay[0]:g},{decay[1]}: expected a rate of at most --lr, then steps",
                hint="EDT's is 5e-5,400000",
            )
        if self.lr_end > self.lr:
            raise ConfigError(f"--lr-end {self.lr_end:g} is above --lr {self.lr:g}", hint="swap the two")
        if self.lr_warmup >= self.steps:
            raise ConfigError(
                f"--lr-warmup {self.lr_warmup} leaves none of {self.steps} steps at the whole rate", hint="use fewer"
            )

    @property
    def resuming_command(self) -> str:
        """The command that resumes the run after an interruption, in words."""
        return "the same command" if self.resume == AUTO else "the same command without --resume"

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
        return warmup_factor(done, self.lr_warmup) * self._decayed_lr(done)

    def _decayed_lr(self, done: int) -> float:
        if self.lr_decay == "none":
            return self.lr
        if self.lr_decay == "cosine":
            return cosine_decay(self.lr, done, floor=self.lr_end, num_steps=self.steps)
        floor, num_steps = self.lr_decay
        return linear_decay(self.lr, done, floor=floor, num_steps=num_steps)

    def fixed(self) -> dict[str, Any]:
        """Return the settings that a resumed run must not change, as plain JSON values."""
        values = {key: value for key, value in asdict(self).items() if key not in FREE}
        loss = values.pop("loss")
        del values["counts"]
        # Checkpoints of versions without a choice do not name it.
        if self.lr_decay == "none":
            values["lr_decay"] = None
        if self.lr_decay == "cosine":  # it ends with the last step
            values["steps of the decay"] = self.steps
        for name in ("lr_warmup", "lr_end"):
            if not values[name]:
                del values[name]
        if self.optimizer == "adamw":
            del values["optimizer"]
        if values.pop("timesteps") != "even":  # likewise
            values["way to draw timesteps"] = self.timesteps
        return {**values, **loss, "entries": list(self.counts), "skip_steps": list(self.skip_steps)}
