"""Time variants in interleaved rounds and compare them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from medcli.engine.plan import FinishedImage, SamplingPlan
from medcli.runtime.json_records import json_fields
from medcli.runtime.memory import peak_memory_mib
from medcli.runtime.timing import Clock, Reading, Spread, take_turns
from medcli.workflows.bench.variants import TimedVariant

ErrorOf = Callable[[TimedVariant, Sequence[FinishedImage]], float | None]


def no_error(variant: TimedVariant, images: Sequence[FinishedImage]) -> None:
    """Return None: nothing is compared with an exact path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchRow:
    """Measurements of one variant."""

    group: str
    """`forward`: one network call; `loop`: a sampling run."""
    variant: str
    """`dense`, `mediators` or `unabsorbed`; in the `loop` group `baseline`, `dense` or `plan`."""
    title: str
    """Name of a sampling run; empty for network calls."""
    mediators: tuple[int, ...]
    """Mediator counts it uses; empty: full attention."""
    dtype: str
    compiled: bool
    num_images: int
    """Number of images of one timed run."""
    gmacs: float
    """GMACs of an image as the papers count: of one forward pass, or of all its network calls."""
    gmacs_done: float
    """GMACs executed: without the queries and keys that are absorbed (`medcli.model.absorption`)."""
    calls: tuple[float, ...] | None
    """Mean network calls of an image at each count; None in the `forward` group."""
    seconds: Spread
    """Time of one run by the report's clock."""
    wall_seconds: float
    """Median wall time."""
    peak_memory_mib: float | None
    """Peak memory of a run beyond that held before it (weights); None: not available on this system."""
    ratio_to_dense: float
    """Speed-up over full attention: over the group's first variant, in the `loop` group the papers' sampling."""
    seconds_per_image: float
    """Median time of an image; of the papers' sampling that of its timed steps times `scale`."""
    scale: float = 1.0
    """All steps over timed steps."""
    error: float | None = None
    """Mean relative distance to the exact path of full attention; None: it has none, or it was not measured."""
    sampling: dict[str, Any] | None = None
    """Sampler, schedule and guidance of a sampling run."""

    @property
    def images_per_sec(self) -> float:
        """Images per second at the median time."""
        return 1 / self.seconds_per_image

    @property
    def is_slower(self) -> bool:
        """True: full attention is faster."""
        return self.ratio_to_dense < 1

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, units in the names."""
        names = (
            *("group", "variant", "title", "dtype", "compiled", "num_images", "gmacs", "gmacs_done", "images_per_sec"),
            *("seconds_per_image", "scale", "ratio_to_dense", "peak_memory_mib", "error", "sampling"),
            *("mediators", "calls"),
        )
        return {
            **json_fields(self, *names),
            "seconds_median": self.seconds.median,
            "seconds_q1": self.seconds.q1,
            "seconds_q3": self.seconds.q3,
            "wall_seconds_median": self.wall_seconds,
            "slower": self.is_slower,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class VariantTiming:
    """A variant and its measurements."""

    variant: TimedVariant
    images: Sequence[FinishedImage]
    """Images of its last untimed run."""
    peak_memory_mib: float | None
    """Peak memory of that run."""
    readings: Sequence[Reading]

    @property
    def seconds(self) -> Spread:
        """Time of a run by the clock that is compared."""
        return Spread.of([reading.seconds for reading in self.readings])

    @property
    def seconds_per_image(self) -> float:
        """Median time of an image, of all its steps."""
        return self.seconds.median * self.variant.scale / self.variant.num_images

    @property
    def images_per_sec(self) -> float:
        """Images per second at the median time."""
        return 1 / self.seconds_per_image

    @property
    def calls(self) -> tuple[float, ...] | None:
        """Mean network calls of an image at each count; None without images."""
        return self._mean([image.calls for image in self.images])

    def gmacs(self, per_pass: Sequence[float]) -> float:
        """Return the mean GMACs of an image, or of one forward pass, given the GMACs of a pass at each count."""
        passes = self._mean([image.passes for image in self.images])
        return per_pass[0] if passes is None else sum(n * cost for n, cost in zip(passes, per_pass, strict=True))

    def _mean(self, made: Sequence[Sequence[int]]) -> tuple[float, ...] | None:
        """Average over the images, of all steps; None without images."""
        if not made:
            return None
        return tuple(self.variant.scale * sum(own) / len(made) for own in zip(*made, strict=True))


def measure(
    variants: Sequence[TimedVariant],
    *,
    untimed: int,
    repeats: int,
    clock: Clock,
    device: torch.device,
    after_run: Callable[[], object],
) -> list[VariantTiming]:
    """Warm up each variant, measure its memory, then time all of them in interleaved rounds.

    Args:
        variants: The variants.
        untimed: Number of warm-up runs, at least 1; memory is measured in the last, after any compilation.
        repeats: Number of timed rounds.
        clock: Clock of the timing.
        after_run: Called after each run, timed or not.
    """
    peaks: list[float | None] = []
    made: list[Sequence[FinishedImage]] = []
    for variant in variants:
        for _ in range(untimed - 1):
            variant.run()
            after_run()
        peaks.append(peak_memory_mib(lambda run=variant.run: made.append(run()), device))  # type: ignore[misc]
        after_run()
    readings = take_turns([variant.run for variant in variants], repeats, clock, after_run)
    return [
        VariantTiming(variant=variant, images=images, peak_memory_mib=peak, readings=own)
        for variant, images, peak, own in zip(variants, made, peaks, readings, strict=True)
    ]


def rows_of(group: str, measured: Sequence[VariantTiming], error: ErrorOf = no_error) -> list[BenchRow]:
    """Compare the variants of a group with its first.

    Args:
        group: Name of the group.
        measured: The variants.
        error: Distance of a variant's images to their exact path.
    """
    first = measured[0].images_per_sec
    return [
        BenchRow(
            group=group,
            variant=one.variant.name,
            title=one.variant.title,
            mediators=one.variant.mediators,
            dtype=one.variant.dtype,
            compiled=one.variant.compiled,
            num_images=one.variant.num_images,
            gmacs=one.gmacs(one.variant.gmacs_per_call),
            gmacs_done=one.gmacs(one.variant.executed_per_call),
            calls=one.calls,
            seconds=one.seconds,
            wall_seconds=Spread.of([reading.wall_seconds for reading in one.readings]).median,
            peak_memory_mib=one.peak_memory_mib,
            ratio_to_dense=one.images_per_sec / first,
            seconds_per_image=one.seconds_per_image,
            scale=one.variant.scale,
            error=error(one.variant, one.images),
            sampling=_sampling(one.variant.plan),
        )
        for one in measured
    ]


def _sampling(plan: SamplingPlan | None) -> dict[str, Any] | None:
    if plan is None:
        return None
    guidance = {"scale": plan.guidance.scale, "interval": list(plan.guidance.interval)}
    return {"sampler": plan.sampler.to_json(), "schedule": plan.schedule.to_json(), "guidance": guidance}
