"""Calibration as a part of fine-tuning: done once, before the first step, and remembered in the run's folder."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from medcli.model.backbone import DiffusionTransformer
from medcli.runtime.files import write_text
from medcli.runtime.json_records import InvalidJson, read_json
from medcli.runtime.reporting import Reporter
from medcli.training.calibration import calibrate, output_errors
from medcli.training.config import AUTO
from medcli.workflows.finetune.setup import FinetuneSetup

CALIBRATION = "calibration.json"


def calibrated(setup: FinetuneSetup, model: DiffusionTransformer, reporter: Reporter) -> dict[str, Any] | None:
    """Fit a model's mediators in place, unless the run is continued: its states hold what came of it.

    Returns:
        Relative squared errors before and after, per layer and count and of the network's output; None where nothing
        was asked for, or where a continued run's file is gone.
    """
    if not setup.request.calibrate:
        return None
    if setup.is_begun and setup.training.resume == AUTO:
        file = setup.output / CALIBRATION
        try:
            known = read_json(file) if file.is_file() else None
        except InvalidJson:  # for the report alone
            return None
        return known if isinstance(known, dict) else None
    seed, loss = setup.training.seed, setup.training.loss
    model.to(setup.device)
    before = output_errors(model, seed=seed, loss=loss)
    layers = calibrate(model, seed=seed, loss=loss, parameters=setup.selection.trained, reporter=reporter)
    after = output_errors(model, seed=seed, loss=loss)
    found = {
        "layers": [asdict(layer) for layer in layers],
        "output": [
            {"num_mediators": count, "before": before[count], "after": after[count]} for count in setup.config.mediators
        ],
    }
    if setup.processes.is_first:
        write_text(setup.output / CALIBRATION, json.dumps(found, indent=2, sort_keys=True) + "\n", force=True)
    return found
