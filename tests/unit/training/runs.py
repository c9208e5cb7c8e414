"""A run small enough to train in a test."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from medcli.config import ModelConfig
from medcli.data.training_set import ArraySet
from medcli.model.backbone import DiffusionTransformer, initialise
from medcli.runtime.reporting import Silent
from medcli.training.config import TrainConfig
from medcli.training.train import TrainResult, train
from tests.unit.training.small_models import LADDER_MODEL as MODEL

RUN = TrainConfig(
    steps=6, global_batch_size=8, lr=1e-2, ema=0.9, counts=(0, 1, 4), save_every=3, log_every=2, label_dropout=0.5
)
LABELS = torch.arange(11) % 3
GRAIN = 0.1 * torch.randn(11, 1, 4, 4, generator=torch.Generator().manual_seed(0))
DATA = ArraySet("grains", GRAIN + (LABELS - 1.0)[:, None, None, None], LABELS)


class Spoilt:
    """The grains, with some steps' images changed: only those draws, so that the batch and no image is bad."""

    def __init__(
        self, steps: Iterable[int], change: Callable[[Tensor], Tensor], batch_size: int = RUN.global_batch_size
    ) -> None:
        self._steps, self._change, self._batch_size = steps, change, batch_size

    def __getattr__(self, name: str) -> Any:
        return getattr(DATA, name)

    def read(self, pick_B: Tensor, position_B: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        data_BCYX, label_B = DATA.read(pick_B, position_B, seed)
        if int(position_B[0]) // self._batch_size + 1 in self._steps:
            data_BCYX = self._change(data_BCYX)
        return data_BCYX, label_B


def with_nan(data_BCYX: Tensor) -> Tensor:
    data_BCYX = data_BCYX.clone()
    data_BCYX[-3, 0, 1, 1] = torch.nan
    return data_BCYX


class Told:
    """A reporter that remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[float] = []
        self.details: list[str] = []

    def progress(self, done: float, total: int, unit: str, detail: str = "") -> None:
        self.steps.append(done)
        self.details.append(detail)

    def note(self, text: str) -> None:
        self.notes.append(text)

    warn = note


def fresh(config: ModelConfig = MODEL) -> DiffusionTransformer:
    model = DiffusionTransformer(config)
    initialise(model, 0)
    return model


def run(folder: Path, data: Any = DATA, *, told: Told | None = None, on: dict[str, Any] | None = None, **settings: Any):
    """Train the tiny model with `RUN` but for these settings."""
    return train(fresh(), data, replace(RUN, **settings), folder, told or Silent(), **(on or {}))


def same_average(a: TrainResult, b: TrainResult) -> bool:
    return all(torch.equal(value, b.ema[name]) for name, value in a.ema.items())


def last_state(folder: Path) -> Path:
    return max(folder.glob("state-*.safetensors"))


def same_tensors(a: Path, b: Path) -> bool:
    """Whether two states hold the same bits, whatever their headers say."""
    one, two = load_file(a), load_file(b)
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())
