"""Train a small model in a process of its own and say what it took: `python measure_memory.py`.

A small run first: libraries take memory when they are first used, which is not the run's.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import torch

from medcli.config import ModelConfig
from medcli.data.training_set import ArraySet
from medcli.model.backbone import DiffusionTransformer, initialise
from medcli.runtime.memory import MIB, peak_memory_mib
from medcli.runtime.reporting import Silent
from medcli.training.config import TrainConfig
from medcli.training.memory_estimate import estimate_memory
from medcli.training.selection import select
from medcli.training.step_pieces import StepShape
from medcli.training.train import train

ENTRIES = (0, 4, 16)
WIDE = ModelConfig(
    family="sit",
    hidden_size=192,
    depth=4,
    num_heads=3,
    patch_size=2,
    latent_size=32,
    mediators=ENTRIES[1:],
    mediator_layers=(0, 1),
    num_classes=10,
)
OTHERS = {"learn_sigma": True, "mediators": (), "mediator_layers": ()}
CONFIGS = {
    "sit": WIDE,
    "dit": dataclasses.replace(WIDE, family="dit"),
    "edt": dataclasses.replace(
        WIDE,
        family="edt",
        depth=6,
        stage_depths=(2, 2, 2),
        stage_widths=(192, 256, 192),
        stage_heads=(3, 4, 3),
        **OTHERS,
    ),
    "mdtv2": dataclasses.replace(WIDE, family="mdtv2", depth=4, decoder_depth=2, **OTHERS),
}
WARM = dataclasses.replace(WIDE, hidden_size=64, num_heads=1, depth=2, latent_size=8)


def counts_of(config: ModelConfig) -> tuple[int, ...]:
    return (0, *config.mediators)


def run(config: ModelConfig, batch_size: int, micro_batch_size: int, what: str, **more: bool) -> None:
    side = config.latent_size
    data = ArraySet("random", torch.randn(16, 4, side, side), torch.zeros(16, dtype=torch.long))
    model = DiffusionTransformer(config)
    initialise(model, 0)
    select(config, what).apply(model)
    settings = TrainConfig(
        steps=4,
        global_batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        counts=counts_of(config),
        save_every=4,
        **more,
    )
    with tempfile.TemporaryDirectory() as folder:
        train(model, data, settings, Path(folder) / "run", Silent())


def main(batch_size: int, micro_batch_size: int, what: str, family: str = "sit", *more: str) -> None:
    torch.set_num_threads(1)
    run(WARM, 2, 2, what)
    config = CONFIGS[family]
    step = StepShape(
        config=config,
        selection=select(config, what),
        counts=counts_of(config),
        num_images=batch_size,
        micro_batch_size=micro_batch_size,
        is_checkpointed="checkpoint_activations" in more,
    )
    estimate = estimate_memory(step, torch.device("cpu"))
    peak = peak_memory_mib(
        lambda: run(config, batch_size, micro_batch_size, what, **dict.fromkeys(more, True)), torch.device("cpu")
    )
    print(json.dumps({"estimate_mib": estimate.total / MIB, "peak_mib": peak}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
