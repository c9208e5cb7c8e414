"""Train a network further, or from scratch: mediator ladders, dense models, another resolution or other classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medcli.checkpoint.writer import save_checkpoint
from medcli.model.backbone import DiffusionTransformer
from medcli.runtime.files import write_text
from medcli.runtime.reporting import Reporter, Silent
from medcli.runtime.versions import versions
from medcli.scores.reference import BUNDLED
from medcli.settings.training import FinetuneRequest
from medcli.training.config import NEVER
from medcli.training.train import TrainResult, train
from medcli.workflows.finetune.calibration import calibrated
from medcli.workflows.finetune.comparison import Comparison, averaged_model, control_of, losses_of
from medcli.workflows.finetune.previews import Previews
from medcli.workflows.finetune.record import record_of, write_record
from medcli.workflows.finetune.setup import CHECKPOINT, FinetuneSetup, set_up
from medcli.workflows.finetune.trackers import Trackers, require_trackers

REPORT = "report.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneReport:
    """What came out."""

    output: str
    """The finished checkpoint."""
    steps: int
    counts: tuple[int, ...]
    """Mediator counts trained; 0 is full attention."""
    num_images: int
    """Images in the data set."""
    num_trained: int
    """Parameters trained."""
    loss: float | None
    """Of the last step."""
    skipped: tuple[int, ...]
    """Steps that were left out because of trouble."""
    seconds: float
    """Time this session trained."""
    images_per_sec: float | None
    """Of this session; None if it had nothing to do."""
    sha256: str | None
    """Of the checkpoint; None in all processes of a launch but the first, which writes it."""
    calibration: dict[str, Any] | None = None
    """Errors before and after, see `calibrated`."""
    comparison: Comparison | None = None
    """Losses before and after."""
    control: str | None = None
    """The control's checkpoint."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = ("output", "steps", "num_images", "num_trained", "loss", "seconds", "images_per_sec", "sha256")
        return {
            **{name: getattr(self, name) for name in (*names, "calibration", "control")},
            "entries": list(self.counts),
            "skipped_steps": list(self.skipped),
            "evaluation": None if self.comparison is None else self.comparison.to_json(),
        }


def finetune(request: FinetuneRequest, reporter: Reporter) -> FinetuneReport:
    """Train until the run has all its steps, then write its checkpoint; the same request again continues.

    The data and the network are checked before anything is written. In a launch of several processes the first one
    writes, and tells.

    Raises:
        MedcliError: If something can't be found, values contradict each other, or the folder holds another run.
        KeyboardInterrupt: At Ctrl-C or SIGTERM, once the run is saved.
    """
    setup = set_up(request, reporter)
    require_trackers(setup)
    told = reporter if setup.processes.is_first else Silent()
    run = _FinetuneRun(setup, told)
    before = run.losses_before() if setup.num_evaluated else None
    report, weights = run.go()
    if before is not None:
        report = replace(report, comparison=_compared(setup, before, weights))
    if request.control:
        report = _with_control(report, control_of(setup), told)
    if setup.processes.is_first:
        text = json.dumps(report.to_json(), indent=2, sort_keys=True)
        write_text(setup.output / REPORT, text + "\n", force=True)
    return report


def load_teacher(setup: FinetuneSetup) -> DiffusionTransformer | None:
    """Load the network that is distilled; None: no distillation."""
    return None if setup.teacher is None else setup.teacher.load(dtype=torch.float32)


def _compared(setup: FinetuneSetup, before: Mapping[int, float], weights: Mapping[str, Tensor]) -> Comparison:
    after = losses_of(setup, averaged_model(setup, weights))
    return Comparison(num_images=setup.num_evaluated, before=before, after=after)


def _with_control(report: FinetuneReport, setup: FinetuneSetup, reporter: Reporter) -> FinetuneReport:
    """Train the control, and set its loss beside the run's."""
    reporter.note("the control: the same steps with full attention in every block")
    control, weights = _FinetuneRun(setup, reporter).go()
    comparison = report.comparison
    if comparison is not None:
        comparison = replace(comparison, control=losses_of(setup, averaged_model(setup, weights)))
    return replace(report, control=control.output, comparison=comparison)


class _FinetuneRun:
    """A run from its weights to its checkpoint, and who is told on the way.

    Args:
        setup: The run.
        reporter: Silent in all processes but the first.
    """

    def __init__(self, setup: FinetuneSetup, reporter: Reporter) -> None:
        self._setup, self._reporter = setup, reporter
        self._previews = Previews(setup, reporter)
        self._trackers: Trackers | None = None
        self._is_recorded = False

    def losses_before(self) -> dict[int, float]:
        """Losses of the network the run starts from, before any calibration."""
        return losses_of(self._setup, self._setup.start.load(dtype=torch.float32).requires_grad_(False))

    def go(self) -> tuple[FinetuneReport, dict[str, Tensor]]:
        """Train; returns what came out, and the averaged weights."""
        setup = self._setup
        model = setup.start.load(dtype=torch.float32)
        calibration = calibrated(setup, model, self._reporter)
        setup.selection.apply(model)
        try:
            result = train(
                model,
                setup.data,
                setup.training,
                setup.output,
                self._reporter,
                teacher=load_teacher(setup),
                identity=setup.identity,
                on_save=self._on_save,
                on_log=self._on_log,
            )
        finally:
            if self._trackers is not None:
                self._trackers.close()
        return replace(self._written(result), calibration=calibration), result.ema

    def _on_log(self, line: Mapping[str, Any]) -> None:
        trackers = self._open_trackers(line["step"])
        loss = "-" if line["loss"] is None else f"{line['loss']:.4f}"
        self._reporter.note(
            f"step {line['step']} of {self._setup.training.steps}: loss {loss}, {line['images_per_sec']:.4g} images/s"
        )
        trackers.log(line)

    def _on_save(self, step: int, weights: Mapping[str, Tensor]) -> None:
        self._begin()
        file = self._previews.draw(step, weights) if self._previews.wants(step) else None
        if file is not None:
            self._open_trackers(step).log_preview(step, file)

    def _begin(self) -> None:
        """Write the run's record, once; by the first saved state the folder is known to belong to this run."""
        if self._is_recorded:
            return
        self._is_recorded = True
        if self._setup.training.resume == NEVER:
            self._previews.clear()
        write_record(self._setup)

    def _open_trackers(self, step: int) -> Trackers:
        """Open the trackers with the first step that is logged."""
        self._begin()
        if self._trackers is None:
            self._trackers = Trackers(self._setup, record_of(self._setup), step)
        return self._trackers

    def _written(self, result: TrainResult) -> FinetuneReport:
        """Write the checkpoint."""
        setup, sha256 = self._setup, None
        target = setup.output / CHECKPOINT
        if setup.processes.is_first:
            self._begin()
            sha256 = save_checkpoint(
                target,
                setup.config,
                result.ema,
                sampling=setup.sampling,
                reference=setup.data.name if setup.data.name in BUNDLED else None,
                training=_history(setup, result),
                force=True,
            )
        return FinetuneReport(
            output=str(target),
            steps=result.steps,
            counts=setup.training.counts,
            num_images=setup.data.num_images,
            num_trained=setup.selection.num_trained,
            loss=result.loss,
            skipped=tuple(trouble.step for trouble in result.skipped),
            seconds=round(result.seconds, 3),
            images_per_sec=result.images_per_sec,
            sha256=sha256,
        )


def _history(setup: FinetuneSetup, result: TrainResult) -> dict[str, Any]:
    """How the checkpoint came to be, for its header: no time and no machine, so that equal runs give equal files."""
    source = setup.start.info
    return {
        "data": Path(setup.data.name).name,
        "steps": result.steps,
        **setup.training.fixed(),
        "start": setup.start.name,
        **setup.identity,
        "train": setup.request.train,
        "freeze": list(setup.request.freeze),
        "before": {name: value for name, value in source.training.items() if name != "before"} if source else {},
        "versions": versions("accelerate"),
    }
