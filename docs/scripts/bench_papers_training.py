"""Time a training step, forward to moving average, against the papers' loop (see `bench_papers.py --train`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from medcli.cost.macs import GIGA, closed_form_macs
from medcli.errors import ConfigError
from medcli.network import Network
from medcli.runtime.memory import MIB, peak_memory_mib
from medcli.runtime.precision import DTYPES, TF32, tf32
from medcli.runtime.timing import Clock, Spread, take_turns
from medcli.settings.costs import BenchSettings
from medcli.training.block_autocast import called_with
from medcli.training.config import TrainConfig
from medcli.training.distributed import Distributed
from medcli.training.trainer import Trainer
from papers_training import PapersTraining, TrainingWork, training_work

UNTIMED = 2
"""Warm-up steps of each loop: the first creates AdamW's moments and may compile, memory is measured in the second."""
TRAINING_PASSES = 3
"""MACs of a forward and a backward pass, in forward passes."""
PAPERS_FAMILIES = ("sit", "dit")
"""Families whose training scripts are published."""


@dataclass(frozen=True, slots=True)
class Loop:
    """A training loop that runs its steps one by one and records their losses."""

    step: Callable[[int], float | Tensor]
    """Run the step of this number, from 0, and return its loss."""
    held_mib: Callable[[], float] = lambda: 0.0
    """Return the size of what is held between steps beyond weights, moments and averages."""
    losses: list[float | Tensor] = field(default_factory=list)

    def run(self) -> None:
        """Run the next step."""
        self.losses.append(self.step(len(self.losses)))


def compare_training(
    settings: BenchSettings, network: Network, batch_size: int, device: torch.device, clock: Clock, vae: str | None
) -> dict[str, Any]:
    """Compare both loops at full attention and at each mediator count.

    Raises:
        ConfigError: If the papers have no training script for this family.
    """
    if network.config.family not in PAPERS_FAMILIES:
        raise ConfigError(
            f"the papers' training loop is for {' and '.join(PAPERS_FAMILIES)} models, not {network.config.family}",
            hint="name a DiT or SiT model",
        )
    work = training_work(network.config, batch_size, UNTIMED + settings.repeats, device, vae=vae)
    rows: list[dict[str, Any]] = []
    agreements = []
    for count in (0, *network.config.mediators):
        own_rows, difference = _compare(settings, network, work, count, batch_size, clock)
        rows += own_rows
        agreements.append({"num_mediators": count, "max_relative_difference": difference})
    return {"rows": rows, "agreements": agreements}


def _compare(
    settings: BenchSettings, network: Network, work: TrainingWork, count: int, batch_size: int, clock: Clock
) -> tuple[list[dict[str, Any]], float]:
    """Return the rows of one count, and the largest relative difference of the losses."""
    device = work.device
    config = TrainConfig(
        steps=UNTIMED + settings.repeats,
        global_batch_size=batch_size,
        counts=(count,),
        compile=settings.compiled,
        grad_clip=math.inf,  # the norm is computed, as in a run, but both loops take the same steps
    )
    with ExitStack() as stack:
        stack.enter_context(tf32(device))
        loops = [_ours(settings, network, work, config, stack), _papers(network, work, config, count)]
        peaks = [_warm_up(loop, device) for loop in loops]
        readings = take_turns([loop.run for loop in loops], settings.repeats, clock)
    spreads = [Spread.of([reading.seconds for reading in own]) for own in readings]
    full_dtype = TF32 if device.type == "cuda" else "fp32"
    dtypes = (settings.dtype if DTYPES[settings.dtype] != torch.float32 else full_dtype, full_dtype)
    gmacs = TRAINING_PASSES * batch_size * closed_form_macs(network.config, num_mediators=count) / GIGA
    rows = [
        {
            "variant": name,
            "num_mediators": count,
            "dtype": dtype,
            "gmacs": gmacs,
            "num_images": batch_size,
            "seconds_median": spread.median,
            "seconds_q1": spread.q1,
            "seconds_q3": spread.q3,
            "images_per_sec": batch_size / spread.median,
            "speedup_over_papers": spreads[1].median / spread.median,
            "peak_memory_mib": peak,
        }
        for name, dtype, spread, peak in zip(("medcli", "papers"), dtypes, spreads, peaks, strict=True)
    ]
    return rows, max(_relative(*map(float, pair)) for pair in zip(*(loop.losses for loop in loops), strict=True))


def _ours(settings: BenchSettings, network: Network, work: TrainingWork, config: TrainConfig, stack: ExitStack) -> Loop:
    """Build our loop, drawing of the batch included (a run leaves it to a thread)."""
    model = network.load(dtype=torch.float32).requires_grad_(True)
    model.pos_embed.requires_grad_(False)
    dtype = DTYPES[settings.dtype]
    stack.enter_context(
        called_with(model.ordered_blocks(), device=work.device, dtype=dtype, is_compiled=config.compile)
    )
    trainer = Trainer(model, None, config, Distributed(work.device, has_idle_parameters=True))
    batches = work.batches(config)
    return Loop(lambda step: trainer.train_step(batches.draw(step)).loss)


def _papers(network: Network, work: TrainingWork, config: TrainConfig, count: int) -> Loop:
    weights = network.load(dtype=torch.float32).to(work.device).state_dict()
    training = PapersTraining(weights, network.config, count, lr=config.lr, ema=config.ema, encoder=work.encoder)
    batches = [work.papers_batch(config, step) for step in range(config.steps)]
    return Loop(lambda step: training.step(batches[step]), lambda: training.gradient_bytes / MIB)


def _warm_up(loop: Loop, device: torch.device) -> float | None:
    """Run the warm-up steps; return the peak of the last beyond weights, moments and averages."""
    for _ in range(UNTIMED - 1):
        loop.run()
    held = loop.held_mib()
    peak = peak_memory_mib(loop.run, device)
    return None if peak is None else peak + held


def _relative(one: float, other: float) -> float:
    difference = abs(one - other) / abs(other) if other else abs(one - other)
    return difference if math.isfinite(difference) else math.inf
