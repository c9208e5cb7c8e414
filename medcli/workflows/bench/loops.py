"""Ways to make the same images: the engine, with full attention and with mediators, and the papers' loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from medcli.config import ModelConfig
from medcli.engine.cost import done_gmacs, pass_gmacs
from medcli.engine.generate import generate
from medcli.engine.labels import Labels
from medcli.engine.networks import Guidance, LadderNetwork
from medcli.engine.papers_loop import plain_loop
from medcli.engine.papers_network import PlainNetwork
from medcli.engine.plan import FinishedImage, Noise, SamplingPlan, latent_shape_of, philox_noise
from medcli.errors import ConfigError
from medcli.runtime.precision import tf32
from medcli.sampler_config import SamplerConfig
from medcli.schedule.spec import FULL, Schedule, static
from medcli.workflows.bench.variants import DENSE, ENGINE, PLAIN, TimedVariant

PLAIN_IMAGES = 2
"""Images the papers' loop makes at most. It makes one at a time, so more tell nothing new and take long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopSettings:
    """The sampling runs that are compared."""

    steps: int
    """Solver steps; 0: no runs."""
    num_images: int | None = None
    """Images of the engine's run; None: one batch. The papers' loop makes the first two of them."""
    rho: tuple[float, ...] | None = None
    """Thresholds; None: such that random weights spend about the same number of steps at each count."""
    warmup_steps: int
    """Distances in the baseline of the thresholds."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How near the engine's images are to those of the papers' loop, from the same noise."""

    num_images: int
    max_relative_difference: float
    """Largest difference of two latents' elements, divided by the largest element; infinite if any is not finite."""
    same_moves: bool
    """Whether each image climbed the ladder at the same steps."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; None for an infinite difference."""
        difference = self.max_relative_difference
        return {
            "num_images": self.num_images,
            "max_relative_difference": difference if math.isfinite(difference) else None,
            "same_moves": self.same_moves,
        }


def agreement(engine: Sequence[FinishedImage], plain: Sequence[FinishedImage]) -> Agreement:
    """Compare the images of two runs, those of the second, which the first made too."""
    of_index = {image.index: image for image in engine}
    pairs = [(of_index[image.index], image) for image in plain]
    differences = [
        float((one.latent_CYX - other.latent_CYX).abs().max() / other.latent_CYX.abs().max()) for one, other in pairs
    ]
    return Agreement(
        num_images=len(pairs),
        max_relative_difference=max(value if math.isfinite(value) else math.inf for value in differences),
        same_moves=all(one.switch_steps == other.switch_steps for one, other in pairs),
    )


def loop_plan(config: ModelConfig, settings: LoopSettings, batch_size: int) -> SamplingPlan | None:
    """How the images are made: the papers' SDE, and their step-wise rule where the ladder has several counts.

    Args:
        config: The network.
        settings: What is asked for.
        batch_size: Images of a network call.

    Returns:
        None if no runs are asked for, or the papers have none for this family.

    Raises:
        ConfigError: If the settings contradict each other or the ladder.
    """
    if not settings.steps or config.family != "sit":
        return None
    return SamplingPlan(
        sampler=SamplerConfig(steps=settings.steps),
        schedule=_schedule(config.mediators, settings),
        labels=Labels(classes=tuple(range(config.num_classes))),
        guidance=Guidance(),
        batch_size=batch_size,
    )


def _schedule(ladder: tuple[int, ...], settings: LoopSettings) -> Schedule:
    if len(ladder) < 2:
        if settings.rho is not None:
            raise ConfigError("--rho needs a ladder of at least two counts", hint="try --mediators 4,16,64")
        return static(ladder[0]) if ladder else FULL
    rho = settings.rho
    if rho is None:
        rho = even_rho(len(ladder), settings.steps, settings.warmup_steps)
    return Schedule(kind="dynamic", counts=ladder, rho=rho, warmup_steps=settings.warmup_steps)


def even_rho(num_counts: int, steps: int, warmup_steps: int) -> tuple[float, ...]:
    """Thresholds that give each count about the same number of steps when the weights are random.

    Then a step changes the state by little more than its noise, whose amplitude is sqrt(2 (1 - t) dt) (reference-facts
    5.5), so the step whose distance falls below a threshold is known beforehand.

    Args:
        num_counts: Length of the ladder, at least 2.
        steps: Solver steps.
        warmup_steps: Distances in the baseline.

    Returns:
        Falling thresholds for the mean absolute difference, one fewer than the counts.

    Raises:
        ConfigError: If there are too few steps to reach the last count.
    """
    fewest = warmup_steps + num_counts + 1
    if steps < fewest:
        raise ConfigError(
            f"--steps {steps}: too few to climb a ladder of {num_counts} counts", hint=f"try --steps {fewest}, or --rho"
        )
    stride = (1 - SamplerConfig(steps=steps).last_step_size) / (steps - 1)

    def amplitude(step: float) -> float:
        return math.sqrt(1 - step * stride)

    baseline = sum(amplitude(step) for step in range(1, warmup_steps + 1)) / warmup_steps
    places = range(1, num_counts)
    # A move takes effect a step after the one that triggers it, and each needs a step of its own.
    latest = [steps - 1 - num_counts + place for place in places]
    triggers = [
        min(max(round(place * steps / num_counts) - 1, warmup_steps + place), last)
        for place, last in zip(places, latest, strict=True)
    ]
    return tuple(amplitude(trigger - 0.5) / baseline for trigger in triggers)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopContest:
    """What the loops share: the networks, the plan and the images."""

    networks: Mapping[int, LadderNetwork]
    """The engine's network at each count."""
    plain_weights: Mapping[str, Tensor]
    """The same weights in float32, for the papers' loop."""
    plan: SamplingPlan
    num_images: int
    device: torch.device
    dtype: str
    compiled: bool

    def variants(self) -> list[TimedVariant]:
        """The engine with full attention, the engine with mediators, and the papers' loop."""
        schedule = self.plan.schedule
        has_mediators = schedule.kind != "full"
        engines = [(DENSE, FULL), *([(ENGINE, schedule)] if has_mediators else [])]
        return [*(self.engine(name, used) for name, used in engines), self.plain()]

    def engine(self, name: str, schedule: Schedule) -> TimedVariant:
        """Our loop under a schedule."""
        networks = [self.networks[count] for count in schedule.counts]
        plan = replace(self.plan, schedule=schedule)

        def run() -> Sequence[FinishedImage]:
            return list(generate(networks, plan, range(self.num_images), device=self.device))

        return self._variant(name, schedule, self.num_images, self.dtype, run, compiled=self.compiled)

    def plain(self) -> TimedVariant:
        """The papers' loop: float32 (TF32 on CUDA, as their scripts set it), never compiled, noise drawn beforehand."""
        config, schedule = self.networks[0].config, self.plan.schedule
        networks = [PlainNetwork(self.plain_weights, config, count) for count in schedule.counts]
        indices = range(min(self.num_images, PLAIN_IMAGES))
        shape = latent_shape_of(self.networks[0])
        noise = drawn_beforehand(philox_noise(self.plan.seed, shape), indices, self.plan.sampler.steps, self.device)

        def run() -> Sequence[FinishedImage]:
            with tf32(self.device):
                return list(plain_loop(networks, self.plan, indices, noise=noise, device=self.device))

        dtype = "tf32" if self.device.type == "cuda" else "fp32"
        return self._variant(PLAIN, schedule, len(indices), dtype, run, compiled=False)

    def _variant(
        self,
        name: str,
        schedule: Schedule,
        num_images: int,
        dtype: str,
        run: Callable[[], Sequence[FinishedImage]],
        *,
        compiled: bool,
    ) -> TimedVariant:
        config, halves = self.networks[0].config, self.plan.guidance.num_halves
        papers = [halves * pass_gmacs(config, count) for count in schedule.counts]
        done = [halves * done_gmacs(config, count) for count in schedule.counts]
        return TimedVariant(
            name=name,
            mediators=tuple(count for count in schedule.counts if count),
            num_images=num_images,
            dtype=dtype,
            compiled=compiled,
            gmacs_a_call=tuple(papers),
            # The papers' loop does what the papers count.
            done_a_call=tuple(papers if name == PLAIN else done),
            run=run,
        )


def drawn_beforehand(noise: Noise, indices: Sequence[int], num_draws: int, device: torch.device) -> Noise:
    """Keep the noise of some images on the CPU, so that who reads it pays for no drawing.

    Args:
        noise: Draws it.
        indices: The images.
        num_draws: Draws of each, numbered from 0.
        device: Where to draw, since a GPU's logarithm may differ in the last bit.

    Returns:
        Noise for one of these images and draws at a time, both numbers on the CPU.
    """
    draw_L = torch.arange(num_draws, device=device)
    table = {index: noise(torch.full_like(draw_L, index), draw_L).cpu() for index in indices}

    def recorded(index_B: Tensor, draw_B: Tensor) -> Tensor:
        return table[int(index_B)][int(draw_B)][None]

    return recorded
