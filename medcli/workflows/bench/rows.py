"""Time variants in interleaved rounds and compare them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from medcli.engine.cost import image_gmacs
from medcli.engine.plan import FinishedImage
from medcli.runtime.memory import peak_memory_mib
from medcli.runtime.timing import Clock, Reading, Spread, take_turns
from medcli.workflows.bench.variants import DENSE, TimedVariant


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchRow:
    """Measurements of one variant."""

    group: str
    """`forward`: one network call; `loop`: a sampling run."""
    variant: str
    """`dense`, `mediators` or `unabsorbed`; in the `loop` group `dense` or `engine`."""
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
    """Speed-up over `dense` of its group."""

    @property
    def images_per_sec(self) -> float:
        """Images per second at the median time."""
        return self.num_images / self.seconds.median

    @property
    def is_slower(self) -> bool:
        """True: full attention is faster."""
        return self.ratio_to_dense < 1

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, units in the names."""
        names = ("group", "variant", "dtype", "compiled", "num_images", "gmacs", "gmacs_done", "images_per_sec")
        return {
            **{name: getattr(self, name) for name in (*names, "ratio_to_dense", "peak_memory_mib")},
            "mediators": list(self.mediators),
            "calls": None if self.calls is None else list(self.calls),
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
    def images_per_sec(self) -> float:
        """Images per second at the median time."""
        return self.variant.num_images / self.seconds.median

    @property
    def calls(self) -> tuple[float, ...] | None:
        """Mean network calls of an image at each count; None without images."""
        if not self.images:
            return None
        return tuple(sum(made) / len(self.images) for made in zip(*(image.calls for image in self.images), strict=True))

    def gmacs(self, per_call: Sequence[float]) -> float:
        """Return the mean GMACs of an image, or of one forward pass, given the GMACs of a call at each count."""
        if not self.images:
            return per_call[0]
        return sum(image_gmacs(image.calls, per_call) for image in self.images) / len(self.images)


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
        device: Where the work runs.
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


def rows_of(group: str, measured: Sequence[VariantTiming]) -> list[BenchRow]:
    """Compare the variants of a group with its `dense`."""
    dense = next(one.images_per_sec for one in measured if one.variant.name == DENSE)
    return [
        BenchRow(
            group=group,
            variant=one.variant.name,
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
            ratio_to_dense=one.images_per_sec / dense,
        )
        for one in measured
    ]
