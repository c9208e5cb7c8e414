"""Records of a run: `config.json`, and the training record in its checkpoint's header."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcli.runtime.files import write_text
from medcli.runtime.versions import versions
from medcli.settings.build import command_line, effective_values, given_in, settings_to_json
from medcli.settings.finetune import FinetuneRequest
from medcli.training.train import TrainResult
from medcli.workflows.finetune.setup import FinetuneSetup

RECORD = "config.json"
FORMAT_VERSION = 1


def record_of(setup: FinetuneSetup, resumed_from: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return all settings of a run and its versions, as JSON values; `request` is what `--config` reads."""
    data = setup.data
    return {
        "format_version": FORMAT_VERSION,
        "command": command_line("finetune", FinetuneRequest, given_in(setup.request)),
        "request": settings_to_json(
            {**effective_values(setup.request), "output": setup.request.output or setup.output}, FinetuneRequest
        ),
        "training": {**_plain(setup.training, leave_out=("counts",)), "entries": list(setup.training.counts)},
        "model": setup.config.to_json(),
        "trained": setup.selection.num_trained,
        "start": {"name": setup.start.name, **setup.identity},
        "data": {
            "name": data.name,
            "fingerprint": data.fingerprint,
            "num_images": data.num_images,
            "num_classes": data.num_classes,
        },
        "processes": setup.processes.count,
        "device": str(setup.device),
        **({"resumed_from": dict(resumed_from)} if resumed_from else {}),
        "versions": versions("accelerate"),
    }


def header_record(setup: FinetuneSetup, result: TrainResult) -> dict[str, Any]:
    """Return the record for the checkpoint's header, without times and paths, so that equal runs give equal files."""
    source, origin = setup.start.info, result.resumed_from
    return {
        "data": Path(setup.data.name).name,
        "steps": result.steps,
        **setup.training.fixed(),
        "start": setup.start.name,
        **setup.identity,
        "train": setup.request.train,
        "freeze": list(setup.request.freeze),
        **({"resumed_from": {name: origin[name] for name in ("step", "changed")}} if origin else {}),
        "before": {name: value for name, value in source.training.items() if name != "before"} if source else {},
        "versions": versions("accelerate"),
    }


def write_record(setup: FinetuneSetup, resumed_from: Mapping[str, Any] | None) -> None:
    """Write `config.json` into the run's folder; that of an earlier session is replaced."""
    text = json.dumps(record_of(setup, resumed_from), indent=2, sort_keys=True)
    write_text(setup.output / RECORD, text + "\n", force=True)


def _plain(value: Any, leave_out: tuple[str, ...] = ()) -> Any:
    """Convert a value to JSON; functions are left out."""
    if dataclasses.is_dataclass(value):
        named = {part.name: getattr(value, part.name) for part in dataclasses.fields(value)}
        return {name: _plain(part) for name, part in named.items() if name not in leave_out and not callable(part)}
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    if isinstance(value, float) and value == float("inf"):
        return "inf"
    return str(value) if isinstance(value, Path) else value
