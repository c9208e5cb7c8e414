"""Training checkpoints and run folders of `finetune`, read as models while the training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcli.checkpoint.header import Header
from medcli.checkpoint.tensor_record import TensorRecord
from medcli.config import ModelConfig
from medcli.errors import CheckpointError, ConfigError
from medcli.runtime.json_records import parse_json

KEY = "medcli_training"
"""Header key of a training checkpoint."""
STATES, FINISHED = "state-*.safetensors", "checkpoint.safetensors"
"""Files of a run's folder: training checkpoints, and the finished model."""
PLAIN = {"path": "linear", "prediction": "velocity"}
"""Settings of the loss that sampling needs, and values that need no mention."""


def newest_of_run(folder: Path) -> Path | None:
    """Return the newest model in a run's folder, finished or not; None: it is no run's folder."""
    found = [*folder.glob(STATES), *folder.glob(FINISHED)]
    return max(found, key=lambda path: (path.stat().st_mtime_ns, path.name == FINISHED), default=None)


def state_header(metadata: Mapping[str, Any], name: str) -> Header | None:
    """Return what a training checkpoint's header says about its model; None for other files.

    Raises:
        CheckpointError: If the header is damaged.
    """
    if KEY not in metadata:
        return None
    try:
        values = parse_json(metadata[KEY], allow_nan=True)
        run, steps = values["run"], values["journal"]["done"]
        config = ModelConfig.from_json(run["model"])
        named = {key: run.get(key, plain) for key, plain in PLAIN.items()} if config.family == "sit" else {}
    except (ConfigError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise CheckpointError(
            f"{name} has a damaged header of a training run ({type(err).__name__})", hint="use an earlier state"
        ) from err
    return Header(
        config=config,
        weights="ema",
        sampling={key: value for key, value in named.items() if value != PLAIN[key]},
        training={"steps": steps},
    )


def state_sets(tensors: Mapping[str, TensorRecord]) -> dict[str, dict[str, TensorRecord]]:
    """Return averaged and raw weights of a training checkpoint; frozen parameters are their own average."""
    raw = {name.removeprefix("model."): record for name, record in tensors.items() if name.startswith("model.")}
    averaged = {name.removeprefix("ema."): record for name, record in tensors.items() if name.startswith("ema.")}
    sets = {"ema": {**raw, **averaged}, "model": raw}
    return {kind: {name: record.renamed(name) for name, record in records.items()} for kind, records in sets.items()}
