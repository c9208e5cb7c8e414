"""Where a run's numbers and pictures go beside its folder: TensorBoard and Weights & Biases, both optional."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from medcli.engine.pictures import read_png
from medcli.errors import EnvironmentProblem
from medcli.workflows.finetune.setup import FinetuneSetup

TENSORBOARD_FOLDER = "tensorboard"
WANDB_PROJECT = "medcli"
STEP = "step"


class Tracker(Protocol):
    """Receives what a run logs."""

    def numbers(self, line: Mapping[str, Any]) -> None:
        """Take a line of `metrics.jsonl`."""

    def picture(self, step: int, file: Path) -> None:
        """Take a preview."""

    def close(self) -> None:
        """Write what is still to be written."""


class TensorBoard:
    """Event files under the run's folder.

    Args:
        folder: Of the run.

    Raises:
        EnvironmentProblem: If TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        _require("tensorboard", "--tensorboard")
        self._folder = folder / TENSORBOARD_FOLDER
        self._writer: Any = None

    def numbers(self, line: Mapping[str, Any]) -> None:
        """Add each number under its name."""
        writer = self._at(line[STEP])
        for name, value in _numbers(line).items():
            writer.add_scalar(name, value, line[STEP])

    def picture(self, step: int, file: Path) -> None:
        """Add the picture."""
        self._at(step).add_image("preview", read_png(file), step, dataformats="HWC")

    def close(self) -> None:
        """Write what is still to be written."""
        if self._writer is not None:
            self._writer.close()

    def _at(self, step: int) -> Any:
        """The writer. What an interrupted run wrote beyond this step is taken back, for it is done again."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=step)
        return self._writer


class WeightsAndBiases:
    """A run on wandb, or in its offline folder: its own environment variables decide.

    Args:
        setup: The run.
        record: What it is made of.

    Raises:
        EnvironmentProblem: If wandb is not installed.
    """

    def __init__(self, setup: FinetuneSetup, record: Mapping[str, Any]) -> None:
        self._wandb = _require("wandb", "--wandb")
        # The folder's name as id lets a continued run go on in the same curve.
        name = setup.output.resolve().name
        self._run = self._wandb.init(
            project=WANDB_PROJECT, name=name, id=name, resume="allow", dir=str(setup.output), config=dict(record)
        )

    def numbers(self, line: Mapping[str, Any]) -> None:
        """Log the numbers."""
        self._run.log(_numbers(line), step=line[STEP])

    def picture(self, step: int, file: Path) -> None:
        """Log the picture."""
        self._run.log({"preview": self._wandb.Image(str(file))}, step=step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


def require_trackers(setup: FinetuneSetup) -> None:
    """Make sure that what is asked for is installed, before anything else is done.

    Raises:
        EnvironmentProblem: If it is not.
    """
    if setup.request.tensorboard:
        _require("tensorboard", "--tensorboard")
    if setup.request.wandb:
        _require("wandb", "--wandb")


def open_trackers(setup: FinetuneSetup, record: Mapping[str, Any]) -> list[Tracker]:
    """What the request asks for; nothing in processes that do not speak."""
    trackers: list[Tracker] = []
    if setup.processes.is_first and setup.request.tensorboard:
        trackers.append(TensorBoard(setup.output))
    if setup.processes.is_first and setup.request.wandb:
        trackers.append(WeightsAndBiases(setup, record))
    return trackers


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name != STEP and isinstance(value, int | float)}


def _require(package: str, flag: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as err:
        raise EnvironmentProblem(
            f"{flag} needs {package}, which is not installed", hint=f"pip install {package}, or leave {flag} out"
        ) from err
