"""Everything a training run needs to continue, saved and loaded as one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from medcli.errors import CheckpointError
from medcli.runtime.files import atomic_path
from medcli.training.ema import Ema

MOMENTS = ("exp_avg", "exp_avg_sq")


def save_state(
    path: Path, step: int, model: nn.Module, ema: Ema, optimizer: torch.optim.AdamW, run: Mapping[str, Any]
) -> None:
    """Write weights, EMA and optimiser moments after `step` finished steps.

    All randomness of training is a function of (seed, step), so no generator state is needed.

    Args:
        path: The file, replaced atomically.
        step: Optimiser steps done.
        model: The network.
        ema: Its moving average.
        optimizer: AdamW over the network's parameters.
        run: Settings that must be the same when the run continues; JSON values.
    """
    tensors: dict[str, Tensor] = {f"ema.{name}": value for name, value in ema.shadow.items()}
    for name, parameter in model.named_parameters():
        tensors[f"model.{name}"] = parameter.detach()
        for moment in MOMENTS:
            if parameter in optimizer.state:
                tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
    header = {"medcli_training": json.dumps({"step": step, "run": dict(run)}, sort_keys=True)}
    with atomic_path(path, force=True) as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, metadata=header)


def load_state(path: Path, model: nn.Module, ema: Ema, optimizer: torch.optim.AdamW, run: Mapping[str, Any]) -> int:
    """Restore what `save_state` wrote, in place.

    Returns:
        Optimiser steps done.

    Raises:
        CheckpointError: If the file is damaged or belongs to a run with other settings.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["medcli_training"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except Exception as err:
        raise CheckpointError(
            f"{path} is not a readable training state: {err}", hint="remove it to start over"
        ) from err
    changed = sorted(key for key in run if header["run"].get(key) != json.loads(json.dumps(run[key])))
    if changed:
        raise CheckpointError(
            f"{path.parent} holds a run with another {', '.join(changed)}",
            hint="choose another --output, or the settings it was started with",
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
            ema.shadow[name].copy_(tensors[f"ema.{name}"])
            if f"{MOMENTS[0]}.{name}" in tensors:
                moments = {moment: tensors[f"{moment}.{name}"].to(parameter.device) for moment in MOMENTS}
                optimizer.state[parameter] = {"step": torch.tensor(float(header["step"])), **moments}
    return int(header["step"])
