"""Experiment trackers of a run: TensorBoard and Weights & Biases through accelerate, both optional."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from os.path import realpath
from pathlib import Path
from typing import Any

from medcli.engine.pictures import read_png
from medcli.errors import EnvironmentProblem
from medcli.workflows.finetune.setup import FinetuneSetup

TENSORBOARD_FOLDER = "tensorboard"
WANDB_PROJECT = "medcli"
STEP = "step"


class Trackers:
    """The requested trackers, in the first process of a launch.

    Args:
        record: Configuration shown on wandb.
        step: First step that is tracked; what an interrupted run logged from it on is purged, for it is repeated.
    """

    def __init__(self, setup: FinetuneSetup, record: Mapping[str, Any], step: int) -> None:
        from accelerate.tracking import TensorBoardTracker, WandBTracker

        self._trackers: list[Any] = []
        if setup.processes.is_first and setup.request.tensorboard:
            tracker = TensorBoardTracker(TENSORBOARD_FOLDER, logging_dir=str(setup.output), purge_step=step)
            self._trackers.append(tracker)
        if setup.processes.is_first and setup.request.wandb:
            # The folder's name as id makes a resumed run continue the same curve.
            name = Path(realpath(setup.output)).name
            about = {"name": name, "id": name, "resume": "allow", "dir": str(setup.output), "config": dict(record)}
            self._trackers.append(WandBTracker(WANDB_PROJECT, **about))
        for tracker in self._trackers:
            getattr(tracker, "start", lambda: None)()  # before accelerate 1.9 the constructor starts it

    def log(self, line: Mapping[str, Any]) -> None:
        """Log the numbers of a line of `metrics.jsonl`."""
        values = {name: value for name, value in line.items() if name != STEP and isinstance(value, int | float)}
        for tracker in self._trackers:
            tracker.log(values, step=line[STEP])

    def log_preview(self, step: int, file: Path) -> None:
        """Log a picture."""
        for tracker in self._trackers:
            options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"preview": read_png(file)[None]}, step=step, **options)

    def close(self) -> None:
        """Flush and close all trackers."""
        for tracker in self._trackers:
            tracker.finish()


def require_trackers(setup: FinetuneSetup) -> None:
    """Check that the requested trackers are installed.

    Raises:
        EnvironmentProblem: If one is not.
    """
    for package, is_requested in (("tensorboard", setup.request.tensorboard), ("wandb", setup.request.wandb)):
        if not is_requested:
            continue
        try:
            importlib.import_module(package)
        except ImportError as err:
            raise EnvironmentProblem(
                f"--{package} needs {package}, which is not installed",
                hint=f"pip install {package}, or leave --{package} out",
            ) from err
