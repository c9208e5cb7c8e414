"""Train a network further, or from scratch: mediator ladders, dense models, another resolution or other classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from medcli.checkpoint.class_names import names_for
from medcli.checkpoint.run_state import FINISHED
from medcli.checkpoint.writer import save_checkpoint
from medcli.model.backbone import DiffusionTransformer
from medcli.runtime.files import write_text
from medcli.runtime.json_records import json_fields
from medcli.runtime.reporting import Reporter, Silent
from medcli.scores.reference import BUNDLED
from medcli.settings.finetune import SELF, FinetuneRequest
from medcli.training.config import NEVER
from medcli.training.train import TrainResult, train
from medcli.workflows.finetune.calibration import calibrated
from medcli.workflows.finetune.comparison import Comparison, averaged_model, control_of, losses_of
from medcli.workflows.finetune.previews import Previews
from medcli.workflows.finetune.record import header_record, record_of, write_record
from medcli.workflows.finetune.setup import FinetuneSetup, set_up
from medcli.workflows.finetune.trackers import Trackers, require_trackers

REPORT = "report.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneReport:
    """Results of a run."""

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
    """Mean loss of the steps of the last log line."""
    skipped: tuple[int, ...]
    """Steps skipped because of spikes or values that are not finite."""
    seconds: float
    """Training time of this session."""
    images_per_sec: float | None
    """Throughput of this session; None if no step was left."""
    unreadable: int
    """Number of images that could not be read."""
    sha256: str | None
    """SHA-256 of the checkpoint; None in all processes of a launch but rank 0, which writes it."""
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
            **json_fields(self, *names, "calibration", "control"),
            "entries": list(self.counts),
            "skipped_steps": list(self.skipped),
            "unreadable_images": self.unreadable,
            "evaluation": self.comparison and json_fields(self.comparison),
        }


def finetune(request: FinetuneRequest, reporter: Reporter) -> FinetuneReport:
    """Train until the run has all its steps, then write its checkpoint; the same request again continues.

    The data and the network are checked before anything is written. Rank 0 writes and reports.

    Raises:
        MedcliError: If something can't be found, values contradict each other, or the folder holds another run.
        KeyboardInterrupt: At Ctrl-C, SIGTERM, SIGHUP or SIGUSR1, once the run is saved.
    """
    setup = set_up(request, reporter)
    require_trackers(setup)
    first_reporter = reporter if setup.processes.is_first else Silent()
    report, _ = _FinetuneRun(setup, first_reporter).go(is_compared=bool(setup.num_evaluated))
    if request.control:
        report = _with_control(report, control_of(setup), first_reporter)
    if setup.processes.is_first:
        text = json.dumps(report.to_json(), indent=2, sort_keys=True)
        write_text(setup.output / REPORT, text + "\n", force=True)
    return report


def load_teacher(setup: FinetuneSetup) -> DiffusionTransformer | None:
    """Load the network that is distilled; None: no distillation."""
    return None if setup.teacher is None else setup.teacher.load(dtype=torch.float32)


def _reference_of(setup: FinetuneSetup) -> str | None:
    """Return the bundled reference that the trained network's samples are scored against; None: there is none."""
    if setup.request.data_name == SELF and setup.start.info is not None:
        return setup.start.info.reference
    return setup.data.name if setup.data.name in BUNDLED else None


def _with_control(report: FinetuneReport, setup: FinetuneSetup, reporter: Reporter) -> FinetuneReport:
    """Train the control and add its losses to the report."""
    reporter.note("control: the same steps with full attention in every block")
    control, weights = _FinetuneRun(setup, reporter).go(is_compared=False)
    comparison = report.comparison
    if comparison is not None:
        comparison = replace(comparison, control=losses_of(setup, averaged_model(setup, weights)))
    return replace(report, control=control.output, comparison=comparison)


class _FinetuneRun:
    """A run from its initial weights to its checkpoint.

    Args:
        reporter: Silent in all processes but rank 0.
    """

    def __init__(self, setup: FinetuneSetup, reporter: Reporter) -> None:
        self._setup, self._reporter = setup, reporter
        self._previews = Previews(setup, reporter)
        self._trackers: Trackers | None = None
        self._resumed_from: Mapping[str, Any] | None = None

    def go(self, *, is_compared: bool) -> tuple[FinetuneReport, dict[str, Tensor]]:
        """Train; return the report and the averaged weights.

        Args:
            is_compared: Measure the losses of the initial network, before any calibration, and of the trained one.
        """
        setup = self._setup
        model = setup.start.load(dtype=torch.float32)
        before = losses_of(setup, model.requires_grad_(False)) if is_compared else None
        calibration = calibrated(setup, model, self._reporter)
        setup.selection.apply(model)
        try:
            result = train(
                model,
                setup.data,
                setup.training,
                setup.output,
                self._reporter,
                device=setup.device,
                teacher=load_teacher(setup),
                identity=setup.identity,
                on_start=self._on_start,
                on_save=self._on_save,
                on_log=self._on_log,
            )
        finally:
            if self._trackers is not None:
                self._trackers.close()
        report = replace(self._written(result), calibration=calibration)
        if before is not None:
            after = losses_of(setup, averaged_model(setup, result.ema))
            report = replace(report, comparison=Comparison(num_images=setup.num_evaluated, before=before, after=after))
        return report, result.ema

    def _on_start(self, resumed_from: Mapping[str, Any] | None) -> None:
        """Write the run's record: the folder is known to belong to this run."""
        if self._setup.training.resume == NEVER:
            self._previews.clear()
        self._resumed_from = resumed_from
        write_record(self._setup, resumed_from)

    def _on_log(self, line: Mapping[str, Any]) -> None:
        trackers = self._open_trackers(line["step"])
        loss = "-" if line["loss"] is None else f"{line['loss']:.4f}"
        self._reporter.note(
            f"step {line['step']} of {self._setup.training.steps}: loss {loss}, {line['images_per_sec']:.4g} images/s"
        )
        trackers.log(line)

    def _on_save(self, step: int, weights: Mapping[str, Tensor]) -> None:
        file = self._previews.draw(step, weights) if self._previews.wants(step) else None
        if file is not None:
            self._open_trackers(step).log_preview(step, file)

    def _open_trackers(self, step: int) -> Trackers:
        """Open the trackers with the first step that is logged."""
        if self._trackers is None:
            self._trackers = Trackers(self._setup, record_of(self._setup, self._resumed_from), step)
        return self._trackers

    def _written(self, result: TrainResult) -> FinetuneReport:
        """Write the checkpoint and return the report."""
        setup, sha256 = self._setup, None
        source = setup.start.info.class_names if setup.start.info else ()
        target = setup.output / FINISHED
        if setup.processes.is_first:
            sha256 = save_checkpoint(
                target,
                setup.config,
                result.ema,
                sampling=setup.sampling,
                reference=_reference_of(setup),
                training=header_record(setup, result),
                class_names=names_for(setup.config.num_classes, setup.data.class_names, source),
                force=True,
            )
        return FinetuneReport(
            output=str(target),
            steps=result.steps,
            counts=setup.training.counts,
            num_images=setup.data.num_images,
            num_trained=setup.selection.num_trained,
            loss=result.loss,
            skipped=tuple(bad_step.step for bad_step in result.skipped),
            seconds=round(result.seconds, 3),
            images_per_sec=result.images_per_sec,
            unreadable=len(result.unreadable),
            sha256=sha256,
        )
