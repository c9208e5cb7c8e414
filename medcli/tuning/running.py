"""Run configurations in full and compare them with the dense parent's images of the same noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medcli.engine.cost import gmacs_of_moves
from medcli.engine.generate import generate
from medcli.engine.plan import SamplingPlan
from medcli.model.backbone import DiffusionTransformer
from medcli.runtime.reporting import Reporter
from medcli.tuning.networks import network_of
from medcli.tuning.recording import require_finite
from medcli.tuning.space import Configuration, NetworkVariant

# Dimension key: I images, C latent channels, Y X latent height and width, K solver steps.


@dataclass(frozen=True, slots=True)
class Finals:
    """Final states of a run."""

    latent_ICYX: Tensor
    """Final latents, float32, on the CPU, by image index."""
    moves: tuple[tuple[int, ...], ...]
    """`switch_steps` of each image."""


def run_configuration(
    model: DiffusionTransformer,
    configuration: Configuration,
    plan: SamplingPlan,
    numbers: range,
    device: torch.device,
    reporter: Reporter,
) -> Finals:
    """Sample with the engine, as `medcli sample` does.

    Args:
        model: A ladder model on the device.
        configuration: Its layers and counts are among the model's.
        plan: Sampling plan; of its schedule only warm-up and distance are used.
        numbers: Image indices.
        device: Where the model is.
        reporter: Notified of finished solver steps.
    """
    schedule = configuration.schedule(plan.schedule.warmup_steps, plan.schedule.distance)
    networks = [network_of(model, variant) for variant in configuration.variants]
    images = generate(networks, replace(plan, schedule=schedule), numbers, device=device, reporter=reporter)
    ordered = sorted(images, key=lambda image: image.index)
    latents = torch.stack([image.latent_CYX.cpu() for image in ordered])
    require_finite(latents, numbers, configuration.words)
    return Finals(latents, tuple(image.switch_steps for image in ordered))


def squared_errors(finals: Tensor, parents: Tensor) -> list[float]:
    """Return the squared L2 distance of each image from the parent's, both (I, C, Y, X)."""
    return [float(value) for value in (finals.double() - parents.double()).flatten(1).square().sum(1)]


def relative_error(squared_I: Sequence[float], energy_I: Sequence[float]) -> tuple[float, float]:
    """Return the mean relative distance of images from the parent's, and its standard error.

    The mean of ratios per image, not the ratio of sums of squares: sampling is chaotic, and a few images that turn into
    others would dominate the sums.

    Args:
        squared_I: Squared difference of each image from the parent's.
        energy_I: Squared norm of each of the parent's images.
    """
    return mean_and_error([math.sqrt(one / whole) for one, whole in zip(squared_I, energy_I, strict=True)])


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error; 0 for a single value."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def cost_of_moves(
    configuration: Configuration,
    moves: Sequence[tuple[int, ...]],
    passes_K: Tensor,
    cost_a_pass: Mapping[NetworkVariant, float],
) -> tuple[float, float]:
    """Return the mean cost of images with these moves, and its standard error.

    Args:
        configuration: The configuration.
        moves: `switch_steps` of each image.
        passes_K: Number of forward passes of each solver step.
        cost_a_pass: Cost of a forward pass through each network.
    """
    return mean_and_error(gmacs_of_moves(passes_K, moves, [cost_a_pass[variant] for variant in configuration.variants]))
