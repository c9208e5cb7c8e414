"""Run sampling plans and compare their images with those of the fine path, from the same noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
        plan: The plan.
        numbers: Image indices.
        device: Where the model is.
        clock: Clock of that device.
        reporter: Notified of finished solver steps.
    """
    networks = ladder_networks(model, plan.schedule.counts)
    images: list[FinishedImage] = []
    reading = clock.time(lambda: images.extend(generate(networks, plan, numbers, device=device, reporter=reporter)))
    images.sort(key=lambda image: image.index)
    latents = torch.stack([image.latent_CYX for image in images]).cpu()
    return Finals(latents, reading.seconds / len(numbers))


def squared_errors(finals: Tensor, references: Tensor) -> list[float]:
    """Return the squared L2 distance of each image from its reference, both (I, C, Y, X)."""
    return [float(value) for value in (finals.double() - references.double()).flatten(1).square().sum(1)]


def relative_errors(squared_I: Sequence[float], energy_I: Sequence[float]) -> list[float]:
    """Return the relative distance of each image from its reference.

    Per image, not of sums of squares: a few images that turn into others would dominate the sums.

    Args:
        squared_I: Squared difference of each image from its reference.
        energy_I: Squared norm of each reference.
    """
    return [math.sqrt(one / whole) if whole else math.inf for one, whole in zip(squared_I, energy_I, strict=True)]


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error; 0 for a single value."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
