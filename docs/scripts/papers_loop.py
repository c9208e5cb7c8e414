"""Step-wise sampling as the papers' code does it: one image at a time, two network calls per step.

The baseline of `bench_papers.py`. From the same noise it produces the same images as the sampling engine, so the two
are comparable. Source: reference-facts 4 and 5.5.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from medcli.config import ModelConfig
from medcli.engine.networks import Network
from medcli.engine.plan import FinishedImage, Labels, Noise, SamplingPlan
from medcli.errors import ConfigError
from medcli.schedule.spec import FULL, Schedule, static
from medcli.settings.sampler import SamplerConfig

# Dimension key: B images of a batch, always 1 here; C latent channels, Y X latent height and width.

CALLS_A_STEP = 2
"""Drift and score each call the network, at the same state and time."""


def papers_plan(config: ModelConfig, steps: int, batch_size: int) -> SamplingPlan | None:
    """Build the papers' plan: their SDE, with a dynamic schedule if the ladder has several counts.

    Args:
        config: The network.
        steps: Number of solver steps.
        batch_size: Number of images of a network call.

    Returns:
        None without steps, or if the family is not SiT.

    Raises:
        ConfigError: If there are too few steps to reach the last count.
    """
    if not steps or config.family != "sit":
        return None
    ladder = config.mediators
    schedule = static(ladder[0]) if ladder else FULL
    if len(ladder) > 1:
        schedule = Schedule(kind="dynamic", counts=ladder, rho=even_rho(len(ladder), steps), warmup_steps=1)
    labels = Labels(classes=tuple(range(config.num_classes)))
    return SamplingPlan(sampler=SamplerConfig(steps=steps), schedule=schedule, labels=labels, batch_size=batch_size)


def even_rho(num_counts: int, steps: int) -> tuple[float, ...]:
    """Choose thresholds that give each count about the same number of steps when the weights are random.

    With random weights a step changes the state by little more than its noise, of amplitude sqrt(2 (1 - t) dt)
    (reference-facts 5.5), so the step whose distance falls below a threshold is known in advance.

    Args:
        num_counts: Length of the ladder, at least 2.
        steps: Number of solver steps.

    Returns:
        Falling thresholds for the mean absolute difference after a warm-up of 1, one fewer than the counts.

    Raises:
        ConfigError: If there are too few steps to reach the last count.
    """
    fewest = num_counts + 2
    if steps < fewest:
        raise ConfigError(
            f"--steps {steps}: too few to climb a ladder of {num_counts} counts", hint=f"try --steps {fewest}"
        )
    stride = (1 - SamplerConfig(steps=steps).last_step_size) / (steps - 1)

    def amplitude(step: float) -> float:
        return math.sqrt(1 - step * stride)

    places = range(1, num_counts)
    # A move takes effect a step after the one that triggers it, and each needs a step of its own.
    latest = [steps - 1 - num_counts + place for place in places]
    triggers = [
        min(max(round(place * steps / num_counts) - 1, 1 + place), last)
        for place, last in zip(places, latest, strict=True)
    ]
    return tuple(amplitude(trigger - 0.5) / amplitude(1) for trigger in triggers)


def papers_loop(
    networks: Sequence[Network],
    plan: SamplingPlan,
    indices: Iterable[int],
    *,
    noise: Noise,
    device: torch.device | str = "cpu",
) -> Iterator[FinishedImage]:
    """Generate images one after the other.

    Args:
        networks: One for each ladder index.
        plan: How to sample; `batch_size` is ignored.
        indices: Image indices.
        noise: Draws noise on the CPU, as the papers' code does; it is moved to the device when needed.
        device: Where the networks are.

    Raises:
        ConfigError: If the plan is not the papers' default SDE without guidance.
    """
    config = plan.sampler
    if config != SamplerConfig(steps=config.steps) or plan.guidance.is_on:
        raise ConfigError("the papers' loop is their default SDE without guidance")
    return (_image(networks, plan, index, noise, torch.device(device)) for index in indices)


@torch.no_grad()
def _image(
    networks: Sequence[Network], plan: SamplingPlan, index: int, noise: Noise, device: torch.device
) -> FinishedImage:
    """Integrate one image from noise to data; the schedule observes every step but the first."""
    index_B = torch.tensor([index])
    label_B = plan.labels.of(plan.seed, index_B).to(device)
    rule = plan.schedule.rule() if plan.schedule.is_dynamic else None
    state = rule.start() if rule else None
    ladder_index, moves, calls = 0, list[int](), [0] * len(networks)
    steps, last_step = plan.sampler.steps, plan.sampler.last_step_size
    grid = torch.linspace(0, 1 - last_step, steps)
    stride = grid[1] - grid[0]
    x_BCYX = noise(index_B, torch.tensor([0])).to(device)
    for step in range(steps - 1):
        noise_BCYX = noise(index_B, torch.tensor([step + 1])).to(device)
        before_BCYX, t_B = x_BCYX, torch.ones(1, device=device) * grid[step]
        spread = torch.sqrt(2 * diffusion(t_B)) * torch.sqrt(stride)
        x_BCYX = x_BCYX + drift(networks[ladder_index], x_BCYX, t_B, label_B) * stride + spread * noise_BCYX
        calls[ladder_index] += CALLS_A_STEP
        if rule and state and step:
            state = rule.observe(state, change(plan.schedule.distance, before_BCYX, x_BCYX))
            moves += [step] * (state.index - ladder_index)
            ladder_index = state.index
    t_B = torch.ones(1, device=device) * grid[-1]
    x_BCYX = x_BCYX + drift(networks[ladder_index], x_BCYX, t_B, label_B) * last_step
    calls[ladder_index] += CALLS_A_STEP
    return FinishedImage(index, int(label_B), x_BCYX[0], switch_steps=tuple(moves), calls=tuple(calls))


def diffusion(t_B: Tensor) -> Tensor:
    """Diffusion w(t) of the form `sigma`: half the squared noise amplitude, 1 - t on the linear path."""
    return (1 - t_B)[:, None, None, None]


def drift(network: Network, x_BCYX: Tensor, t_B: Tensor, label_B: Tensor) -> Tensor:
    """Drift of the SDE: the velocity, plus the score from a second, equal network call."""
    velocity_BCYX = network(x_BCYX, t_B, label_B)
    return velocity_BCYX + diffusion(t_B) * score(network(x_BCYX, t_B, label_B), x_BCYX, t_B)


def score(velocity_BCYX: Tensor, x_BCYX: Tensor, t_B: Tensor) -> Tensor:
    """Score of the linear path from its velocity, by the general formula. Source: reference-facts 5.2."""
    alpha = t_B[:, None, None, None]
    sigma, d_alpha, d_sigma = 1 - alpha, 1.0, -1.0
    ratio = alpha / d_alpha
    return (ratio * velocity_BCYX - x_BCYX) / (sigma**2 - ratio * d_sigma * sigma)


def change(name: str, before_BCYX: Tensor, after_BCYX: Tensor) -> float:
    """Distance between two states over all elements; synchronises the device."""
    difference = after_BCYX - before_BCYX
    return float((difference.abs() if name == "l1" else difference**2).mean())
