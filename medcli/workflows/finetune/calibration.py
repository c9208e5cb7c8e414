"""Calibration before fine-tuning: done once and recorded in the run's folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from medcli.model.backbone import DiffusionTransformer
from medcli.runtime.files import write_text
from medcli.runtime.json_records import InvalidJson, read_record
from medcli.runtime.reporting import Reporter
from medcli.settings.finetune import FinetuneRequest
from medcli.training.calibration import CalibrationConfig, LayerError, calibrate, output_errors
from medcli.workflows.finetune.setup import FinetuneSetup

CALIBRATION = "calibration.json"


@dataclass(frozen=True, slots=True)
class _OutputError:
    """Relative squared error of the network's output at a mediator count."""

    num_mediators: int
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class _CalibrationRecord:
    """Contents of the file."""

    layers: list[LayerError]
    output: list[_OutputError]


def sizes_of(request: FinetuneRequest) -> CalibrationConfig:
    """Return the amount of sampling and fitting; errors are measured on a quarter as many images."""
    images = request.calibration_images
    return CalibrationConfig(
        num_images=images,
        held_out=max(1, images // 4),
        steps=request.calibration_steps,
        network_steps=request.calibration_network_steps,
    )


def calibrated(setup: FinetuneSetup, model: DiffusionTransformer, reporter: Reporter) -> dict[str, Any] | None:
    """Fit a model's mediators in place, unless the run is resumed, whose checkpoints hold the result.

    Returns:
        Relative squared errors before and after, per layer and count and of the network's output; None if
        it was not requested, or a resumed run has no record of it.
    """
    if not setup.request.calibrate:
        return None
    if (folder := setup.resumed_folder) is not None:
        file = folder / CALIBRATION
        try:
            return asdict(read_record(_CalibrationRecord, file))
        except FileNotFoundError:
            return None
        except (OSError, InvalidJson) as err:
            reporter.note(f"{file} can't be read: {err}; the report leaves the calibration out")
            return None
    seed, loss = setup.training.seed, setup.training.loss
    model.to(setup.device)
    sizes = sizes_of(setup.request)
    before = output_errors(model, seed=seed, loss=loss, config=sizes)
    layers = calibrate(model, seed=seed, loss=loss, config=sizes, parameters=setup.selection.trained, reporter=reporter)
    after = output_errors(model, seed=seed, loss=loss, config=sizes)
    found = {
        "layers": [asdict(layer) for layer in layers],
        "output": [
            {"num_mediators": count, "before": before[count], "after": after[count]} for count in setup.config.mediators
        ],
    }
    if setup.processes.is_first:
        write_text(setup.output / CALIBRATION, json.dumps(found, indent=2, sort_keys=True) + "\n", force=True)
    return found
