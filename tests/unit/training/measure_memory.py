"""Estimate the peak memory of a small run, then measure it: `python measure_memory.py BATCH MICRO all FAMILY`.

A small run goes first: libraries take memory when they are first used, which is not the run's.
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
from medcli.runtime.timing import clock_for
from medcli.training.config import TrainConfig
from medcli.training.selection import select
from medcli.training.step_trial import try_step
from medcli.training.train import train

CPU = torch.device("cpu")
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


def data_of(config: ModelConfig) -> ArraySet:
    side = config.latent_size
    return ArraySet("random", torch.randn(16, 4, side, side), torch.zeros(16, dtype=torch.long))


def model_of(config: ModelConfig, what: str) -> DiffusionTransformer:
    model = DiffusionTransformer(config)
    initialise(model, 0)
    select(config, what).apply(model)
    return model


def settings(config: ModelConfig, batch_size: int, micro_batch_size: int, **more: bool) -> TrainConfig:
    return TrainConfig(
        steps=4,
        global_batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        counts=counts_of(config),
        save_every=4,
        **more,
    )


def run(config: ModelConfig, batch_size: int, micro_batch_size: int, what: str, **more: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        train(
            model_of(config, what),
            data_of(config),
            settings(config, batch_size, micro_batch_size, **more),
            Path(folder) / "run",
            Silent(),
        )


def main(batch_size: int, micro_batch_size: int, what: str, family: str = "sit", *more: str) -> None:
    torch.set_num_threads(1)
    run(WARM, 2, 2, what)
    config, given = CONFIGS[family], dict.fromkeys(more, True)
    trial = try_step(
        model_of(config, what),
        None,
        data_of(config),
        settings(config, batch_size, micro_batch_size, **given),
        device=CPU,
        num_images=batch_size,
        micro_batch_size=micro_batch_size,
        num_tried=micro_batch_size,
        clock=clock_for(CPU, 1),
    )
    peak = peak_memory_mib(lambda: run(config, batch_size, micro_batch_size, what, **given), CPU)
    print(json.dumps({"estimate_mib": trial.memory.total / MIB, "peak_mib": peak}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
