"""The training loop: batches drawn as functions of (seed, step), AdamW, EMA, resume."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from medcli.config import ModelConfig
from medcli.errors import ConfigError, MedcliError
from medcli.model.backbone import DiffusionTransformer
from medcli.runtime.noise import Stream, normal, uniform, words
from medcli.runtime.reporting import Reporter
from medcli.training.ema import Ema
from medcli.training.objective import LadderObjective, native_time
from medcli.training.state import load_state, save_state

STATE_FILE = "state.safetensors"
METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run.

    Raises:
        ConfigError: If a number is out of range.
    """

    steps: int
    """Optimiser steps in all, those before a resume included."""
    global_batch_size: int = 256
    """Images per optimiser step."""
    lr: float = 1e-4
    """AdamW's constant learning rate."""
    ema: float = 0.9999
    """Decay of the moving average."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    label_dropout: float = 0.1
    """Share of labels replaced by the null class, for guidance."""
    entries: tuple[int, ...] = (0,)
    """Mediator counts trained together, 0 for full attention."""
    seed: int = 0
    """Of weights, data order, noise, times and label dropout."""
    save_every: int = 500
    """Steps between saved states."""
    log_every: int = 50
    """Steps between lines of `metrics.jsonl`."""

    def __post_init__(self) -> None:
        for name in ("steps", "global_batch_size", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if self.global_batch_size < len(self.entries):
            raise ConfigError(
                f"a batch of {self.global_batch_size} cannot give each of {len(self.entries)} ladder entries an image",
                hint=f"use --global-batch-size {len(self.entries)} or more",
            )
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"--lr must be a positive number, got {self.lr}", hint="try --lr 1e-4")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"--ema must be in [0, 1), got {self.ema}", hint="try --ema 0.999")
        if not 0 <= self.label_dropout < 1:
            raise ConfigError(f"label dropout must be in [0, 1), got {self.label_dropout}")

    def fixed(self) -> dict[str, Any]:
        """The settings that a resumed run must share with its beginning."""
        free = {"steps", "save_every", "log_every"}
        return {key: value for key, value in asdict(self).items() if key not in free}


@dataclass(frozen=True, slots=True)
class LatentSet:
    """A data set in memory."""

    latents_NCYX: Tensor
    """(N, C, Y, X) float32, scaled latents or pixels in [-1, 1]."""
    labels_N: Tensor
    """(N,) int64."""


class Batch(NamedTuple):
    """What one step trains on, as `LadderObjective.forward` takes it."""

    data_BCYX: Tensor
    noise_BCYX: Tensor
    t_B: Tensor
    label_B: Tensor


def draw_batch(data: LatentSet, config: TrainConfig, model: ModelConfig, step: int, rows: slice = slice(None)) -> Batch:
    """The batch of a step: a function of (seed, step), so neither a resume nor the process count changes it.

    Each epoch visits every image once, in an order drawn for that epoch.

    Args:
        data: The data set.
        config: Seed, batch size and label dropout.
        model: Family, which sets the unit of time, and null class.
        step: Number of the step, from 0.
        rows: The part of the global batch this process trains on.
    """
    size = len(data.labels_N)
    position_B = torch.arange(step * config.global_batch_size, (step + 1) * config.global_batch_size)[rows]
    picks = torch.empty_like(position_B)
    for epoch in position_B.div(size, rounding_mode="floor").unique().tolist():
        inside = position_B.div(size, rounding_mode="floor") == epoch
        keys = words(config.seed, torch.arange(size), torch.full((size,), epoch), 1, Stream.DATA_ORDER)
        picks[inside] = keys[:, 0].argsort(stable=True)[position_B[inside] % size]
    zero_B = torch.zeros_like(position_B)
    shape = tuple(data.latents_NCYX.shape[1:])
    dropped_B = uniform(config.seed, position_B, zero_B, 1, Stream.TRAIN_LABEL_DROP)[:, 0] < config.label_dropout
    return Batch(
        data.latents_NCYX[picks],
        normal(config.seed, position_B, zero_B, shape, Stream.TRAIN_NOISE),
        native_time(model.family, uniform(config.seed, position_B, zero_B, 1, Stream.TRAIN_TIME)[:, 0]),
        torch.where(dropped_B, model.null_class, data.labels_N[picks]),
    )


def train(
    model: DiffusionTransformer, data: LatentSet, config: TrainConfig, output_dir: Path, reporter: Reporter
) -> dict[str, Tensor]:
    """Train a model in place, continuing what `output_dir` already holds.

    Args:
        model: Initialised or pretrained network.
        data: The data set.
        config: The run.
        output_dir: Gets `state.safetensors` and `metrics.jsonl`; the same call again resumes.
        reporter: Told about progress.

    Returns:
        The moving average of the weights, float32, by parameter name.

    Raises:
        CheckpointError: If `output_dir` holds a run with other settings.
        MedcliError: If the loss stops being a finite number.
    """
    accelerator = Accelerator()
    run = {**config.fixed(), "model": model.config.to_json()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.lr, weight_decay=0.0)
    ema = Ema(model, config.ema)
    output_dir.mkdir(parents=True, exist_ok=True)
    state_path = output_dir / STATE_FILE
    first = load_state(state_path, model, ema, optimizer, run) if state_path.is_file() else 0
    objective, prepared = accelerator.prepare(LadderObjective(model, config.entries), optimizer)
    share = config.global_batch_size // accelerator.num_processes
    rows = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    log = StepLog(output_dir / METRICS_FILE)
    for step in range(first, config.steps):
        batch = draw_batch(data, config, model.config, step, rows)
        loss = objective(*(part.to(accelerator.device) for part in batch))
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(trained, config.grad_clip)
        prepared.step()
        prepared.zero_grad(set_to_none=True)
        ema.update(model)
        log.add(loss.detach())
        done = step + 1
        if accelerator.is_main_process and (done % config.log_every == 0 or done == config.steps):
            log.write(done)
            reporter.progress(done, config.steps, "steps")
        if accelerator.is_main_process and (done % config.save_every == 0 or done == config.steps):
            save_state(state_path, done, model, ema, optimizer, run)
    return ema.shadow


class StepLog:
    """Averages losses and appends a line to `metrics.jsonl` now and then.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.losses: list[Tensor] = []
        self.started = monotonic()

    def add(self, loss: Tensor) -> None:
        """Note one step's loss, a scalar; it stays on its device."""
        self.losses.append(loss)

    def write(self, step: int) -> None:
        """Append the mean of the losses since the last line.

        Raises:
            MedcliError: If it is not a finite number.
        """
        mean = float(torch.stack(self.losses).mean())
        if not math.isfinite(mean):
            raise MedcliError(
                f"the loss became {mean} before step {step}", hint="lower --lr; the last saved state is good"
            )
        seconds, self.started = monotonic() - self.started, monotonic()
        line = {"step": step, "loss": round(mean, 6), "steps_per_sec": round(len(self.losses) / seconds, 3)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.losses.clear()
