"""Train the tiny model of the unit tests in a process of its own: `python train_tiny.py FOLDER SETTINGS_AS_JSON`.

Each process tells how it went in a file of its own beside the folder: FOLDER-RANK.json.

With `"fsdp": true` the network is sharded by torch's `fully_shard`: accelerate does so on GPUs alone, so a test on CPUs
puts it in the place of accelerate's preparation, and everything else is what a GPU run uses.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medcli.errors import DataError
from medcli.training.distributed import Distributed
from tests.unit.training.runs import DATA, Spoilt, Told, run, with_nan


class Lost:
    """The grains on a disk that one process loses at a step."""

    def __init__(self, step: int, batch_size: int) -> None:
        self.first = (step - 1) * batch_size

    def __getattr__(self, name: str) -> Any:
        return getattr(DATA, name)

    def read(self, pick_B: Any, position_B: Any, seed: int) -> Any:
        if os.environ.get("RANK") == "1" and int(position_B.max()) >= self.first:
            raise DataError("the disk is gone")
        return DATA.read(pick_B, position_B, seed)


def shard(self: Distributed, objective: Any, optimizer: torch.optim.Optimizer) -> nn.Module:
    """Shard blocks and root, and give the optimiser the sharded parameters."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    names = [name for name, value in objective.named_parameters() if value.requires_grad]
    mesh = init_device_mesh("cpu", (self.count,))
    for block in objective.model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(objective, mesh=mesh)
    parameters = dict(objective.named_parameters())
    optimizer.param_groups[0]["params"] = [parameters[name] for name in names]
    self.is_sharded = True
    return objective


def main(folder: Path, settings: dict[str, Any]) -> int:
    """Train, and say how it went; 130 if it was interrupted."""
    torch.set_num_threads(1)
    if settings.pop("fsdp", False):
        Distributed.prepare = shard  # type: ignore[method-assign]
    told = Told()
    step = settings.pop("spoilt", None)
    data = Spoilt([step], with_nan, settings["global_batch_size"]) if step else DATA
    if lost := settings.pop("lost", None):
        data = Lost(lost, settings["global_batch_size"])
    said: dict[str, Any] = {"notes": told.notes}
    try:
        result = run(folder, data, told=told, **settings)
        said["sums"] = {name: value.double().sum().item() for name, value in result.ema.items()}
    except KeyboardInterrupt:
        said["interrupted"] = True
    except DataError as err:
        said["error"] = err.message
    folder.with_name(f"{folder.name}-{os.environ.get('RANK', 0)}.json").write_text(json.dumps(said))
    return 130 if "interrupted" in said else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
