"""Run sampling plans, timed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medcli.engine.fine_path import final_latents
from medcli.engine.generate import generate
from medcli.engine.networks import ladder_networks
from medcli.engine.plan import FinishedImage, SamplingPlan
from medcli.model.backbone import DiffusionTransformer
from medcli.runtime.reporting import Reporter
from medcli.runtime.timing import Clock

# Dimension key: I images, C latent channels, Y X latent height and width.


@dataclass(frozen=True, slots=True)
class Finals:
    """Final states of a run."""

    latent_ICYX: Tensor
    """Final latents, float32, on the CPU, by image index."""
    seconds: float
    """Seconds an image, by the clock of the device; without loading, decoding and files."""


def run_plan(
    model: DiffusionTransformer,
    plan: SamplingPlan,
    numbers: range,
    *,
    device: torch.device,
    clock: Clock,
    reporter: Reporter | None = None,
) -> Finals:
    """Sample with the engine, as `medcli sample` does.

    Args:
        model: A model on the device that holds every count of the plan's schedule.
        numbers: Image indices.
        clock: Clock of that device.
        reporter: Notified of finished solver steps.
    """
    networks = ladder_networks(model, plan.schedule.counts)
    images: list[FinishedImage] = []
    reading = clock.time(lambda: images.extend(generate(networks, plan, numbers, device=device, reporter=reporter)))
    return Finals(final_latents(images).cpu(), reading.seconds / len(numbers))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error; 0 for a single value."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
