"""Inputs and outputs of the sampling engine: labels, plans and finished images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Protocol, get_args

import torch
from torch import Tensor

from medcli.config import Family, ModelConfig
from medcli.diffusion.gaussian import NUM_TRAIN_TIMESTEPS
from medcli.diffusion.multistep import MultistepRows
from medcli.engine.networks import Guidance, LadderNetwork
from medcli.errors import CheckpointError, ConfigError, require_complete
from medcli.runtime.noise import Stream, integers, normal
from medcli.schedule.spec import Schedule
from medcli.settings.sampler import ADAPTIVE_SOLVERS, SamplerConfig, SamplerName
from medcli.settings.sampling import LabelSampling, LabelSettings
from medcli.settings.values import check_as

# Dimension key: B images, K classes.


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """The classes to sample and how they are assigned to image numbers.

    Raises:
        ConfigError: If no class is given or the way of sampling is unknown.
    """

    classes: tuple[int, ...]
    """Labels; a repeated label is sampled more often."""
    sampling: LabelSampling = "equal"
    """`equal`: image i has class i modulo their number; `random`: drawn per image number from the seed."""

    def __post_init__(self) -> None:
        if not self.classes:
            raise ConfigError("no classes to sample", hint="try --classes all")
        check_as(LabelSettings, label_sampling=self.sampling)

    def of(self, seed: int, index_B: Tensor) -> Tensor:
        """Return the labels of the images with these numbers, (B,) int64."""
        classes_K = torch.tensor(self.classes, device=index_B.device)
        if self.sampling == "equal":
            return classes_K[index_B % len(classes_K)]
        return classes_K[integers(seed, index_B, torch.zeros_like(index_B), len(classes_K), Stream.LABEL)]


# Dimension key: B images of a batch, C latent channels, Y X latent height and width.

FAMILY_SAMPLERS: Mapping[str, tuple[SamplerName, SamplerName]] = {
    "sit": ("sde", "ode"),
    "dit": ("ddpm", "ddim"),
    "edt": ("ddpm", "ddim"),
    "mdtv2": ("ddpm", "ddim"),
}
"""Samplers for the output of each family; the first is the references' default."""
require_complete("family", FAMILY_SAMPLERS, get_args(Family))

Noise = Callable[[Tensor, Tensor], Tensor]
"""(index_B, draw_B) -> (B, C, Y, X) float32 standard normal. Draw 0 is the initial state, draw k + 1 solver step k."""


class Indices(Protocol):
    """Numbers of images to generate: a list, a range, or a source that yields them on demand."""

    def __len__(self) -> int:
        """Return an upper bound of their number."""

    def __iter__(self) -> Iterator[int]:
        """Iterate over the numbers, each once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingPlan:
    """Settings of a sampling run: with the networks, everything that determines image i."""

    sampler: SamplerConfig
    schedule: Schedule
    labels: Labels
    guidance: Guidance = Guidance()
    rows: MultistepRows | None = None
    """Rows of a multistep solver from a plan file; None: its own."""
    seed: int = 0
    batch_size: int = 16
    """Images in a network call, guidance halves not counted."""


@dataclass(frozen=True, slots=True)
class FinishedImage:
    """A fully denoised latent and its record."""

    index: int
    label: int
    latent_CYX: Tensor
    """float32, on the device, in the model's latent scale."""
    switch_steps: tuple[int, ...]
    """Element j is the solver step whose result triggered the move to ladder index j + 1."""
    calls: tuple[int, ...]
    """Network calls at each ladder index; the two halves of guidance are one call."""
    null_calls: tuple[int, ...] = ()
    """Network calls at each ladder index that also ran the null half; empty if guidance is off."""

    @property
    def passes(self) -> tuple[int, ...]:
        """Forward passes at each ladder index."""
        return tuple(map(sum, zip_longest(self.calls, self.null_calls, fillvalue=0)))


def diverged(index: int, place: str) -> CheckpointError:
    """Return the error of an image that is not finite.

    Args:
        index: Image number.
        place: What made it so, such as `at solver step 3 of 50`.
    """
    return CheckpointError(
        f"image {index} became NaN or infinite {place}: the solver diverged on this model",
        hint="try --dtype fp32, more --steps or another --solver; check --family and --prediction",
    )


def philox_noise(seed: int, latent_shape: tuple[int, ...]) -> Noise:
    """Return counter-based noise, independent of batch, order and process."""
    return lambda index_B, draw_B: normal(seed, index_B, draw_B, latent_shape, Stream.NOISE)


def latent_shape_of(network: LadderNetwork) -> tuple[int, int, int]:
    """Return the shape (C, Y, X) of an image's state."""
    return network.config.in_channels, network.config.latent_size, network.config.latent_size


def forward_inputs(network: LadderNetwork, batch_size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Draw latents, native times and labels of a batch."""
    generator = torch.Generator().manual_seed(0)
    latent_BCYX = torch.randn(batch_size, *latent_shape_of(network), generator=generator)
    t_B = torch.linspace(0, 0.96, batch_size)
    if network.config.is_gaussian:
        t_B = (t_B * NUM_TRAIN_TIMESTEPS).long()
    label_B = torch.arange(batch_size) % network.config.num_classes
    return latent_BCYX.to(device), t_B.to(device), label_B.to(device)


def check_plan(config: ModelConfig, plan: SamplingPlan) -> None:
    """Check a plan against the model's configuration; no weights are needed.

    Args:
        config: The model, or any of the models of a schedule with several.

    Raises:
        ConfigError: If the classes, the sampler or guidance do not fit the model.
    """
    samplers = FAMILY_SAMPLERS[config.family]
    if plan.sampler.sampler not in samplers:
        raise ConfigError(
            f"--sampler {plan.sampler.sampler} is not for a {config.family} model",
            hint=f"use --sampler {' or '.join(samplers)}",
        )
    if plan.sampler.solver in ADAPTIVE_SOLVERS and plan.schedule.is_dynamic:
        raise ConfigError(
            f"--solver {plan.sampler.solver} chooses its own steps, so the dynamic schedule has none to observe",
            hint="use --solver adams3, or --schedule static",
        )
    if plan.schedule.is_dynamic and not plan.sampler.has_even_steps:
        raise ConfigError(
            f"--schedule dynamic can't read distances that follow {plan.sampler.sampler}'s own slope or step sizes",
            hint="switch by progress: --schedule timed --at 0.3,0.6; or use --sampler sde or ddpm",
        )
    if plan.sampler.solver in ADAPTIVE_SOLVERS and plan.schedule.is_timed:
        raise ConfigError(
            f"--solver {plan.sampler.solver} chooses its own steps, so the timed schedule has none to count",
            hint="use --solver adams3",
        )
    if plan.sampler.solver in ADAPTIVE_SOLVERS and plan.guidance.is_partial:
        raise ConfigError(
            f"--solver {plan.sampler.solver} chooses its own steps, so a guidance interval has none to count",
            hint="use --solver adams3, or leave --cfg-interval out",
        )
    for label in plan.labels.classes:
        if not 0 <= label < config.num_classes:
            raise ConfigError(
                f"class {label} is out of range: this model knows 0..{config.num_classes - 1}",
                hint=f"try --classes {min(max(label, 0), config.num_classes - 1)}, or all",
            )
    if plan.guidance.is_on and not config.has_null_class:
        raise ConfigError("this model has no null class, so it can't be guided", hint="pass --cfg-scale 1")
    if plan.guidance.power is not None and not config.is_gaussian:
        raise ConfigError(
            "--cfg-power is for models of integer timesteps, not for SiT", hint="leave it out; try --cfg-interval"
        )
    if plan.batch_size < 1:
        raise ConfigError(f"--batch-size must be at least 1, got {plan.batch_size}")
