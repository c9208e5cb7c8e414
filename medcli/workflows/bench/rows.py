"""Run variants in turn, and say what each took beside the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from medcli.engine.cost import image_gmacs
from medcli.engine.plan import FinishedImage
from medcli.runtime.memory import peak_memory_mib
from medcli.runtime.timing import Clock, Reading, Spread, take_turns
from medcli.workflows.bench.variants import DENSE, PLAIN, TimedVariant


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchRow:
    """What one variant took."""

    group: str
    """`forward`: one network call; `loop`: a sampling run."""
    variant: str
    """`dense`, `mediators`, `unabsorbed` or `plain` (the papers' network); of loops `dense` (the engine with full
    attention), `engine` or `plain`."""
    mediators: tuple[int, ...]
    """Counts it uses; empty: full attention."""
    dtype: str
    compiled: bool
    num_images: int
    """Images of one timed run."""
    gmacs: float
    """Multiply-adds of an image as the papers count: of one forward pass, or of all network calls it really made."""
    gmacs_done: float
    """The same without the queries and keys that are absorbed, so never computed (`medcli.model.absorption`)."""
    calls: tuple[float, ...] | None
    """Of loops: mean network calls of an image at each count."""
    seconds: Spread
    """Of one timed run, by the report's clock."""
    wall_seconds: float
    """Median by the wall clock."""
    peak_memory_mib: float | None
    """Held at the worst moment beyond what was held before, weights among it; None where the system does not tell."""
    ratio_to_dense: float
    """Its images per second divided by those of `dense` in its group: above 1 is faster."""
    ratio_to_plain: float | None
    """The same against `plain`, of forward passes with the same count; None where the papers have no such network."""

    @property
    def images_per_sec(self) -> float:
        """At the median."""
        return self.num_images / self.seconds.median

    @property
    def is_slower(self) -> bool:
        """Whether full attention is faster."""
        return self.ratio_to_dense < 1

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, units in the names."""
        names = ("group", "variant", "dtype", "compiled", "num_images", "gmacs", "gmacs_done", "images_per_sec")
        return {
            **{name: getattr(self, name) for name in (*names, "ratio_to_dense", "ratio_to_plain", "peak_memory_mib")},
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
    """A variant, and what was seen of it."""

    variant: TimedVariant
    images: Sequence[FinishedImage]
    """What its last untimed run made."""
    peak_memory_mib: float | None
    """Of that run."""
    readings: Sequence[Reading]

    @property
    def seconds(self) -> Spread:
        """Of a run, by the clock that is compared."""
        return Spread.of([reading.seconds for reading in self.readings])

    @property
    def images_per_sec(self) -> float:
        """At the median."""
        return self.variant.num_images / self.seconds.median

    @property
    def calls(self) -> tuple[float, ...] | None:
        """Mean network calls of an image at each count; None where no images are made."""
        if not self.images:
            return None
        return tuple(sum(made) / len(self.images) for made in zip(*(image.calls for image in self.images), strict=True))

    def gmacs(self, a_call: Sequence[float]) -> float:
        """Of an image in the mean, or of one forward pass, from what a network call costs at each count."""
        if not self.images:
            return a_call[0]
        return sum(image_gmacs(image.calls, a_call) for image in self.images) / len(self.images)


def measure(
    variants: Sequence[TimedVariant],
    *,
    untimed: int,
    repeats: int,
    clock: Clock,
    device: torch.device,
    after_run: Callable[[], object],
) -> list[VariantTiming]:
    """Run each variant untimed, look at its memory, then time all of them in turn.

    Args:
        variants: What takes turns.
        untimed: Runs before, at least 1; the memory is that of the last, when nothing is compiled any more.
        repeats: Timed rounds.
        clock: How to time.
        device: Where the work runs.
        after_run: Is called after each run, timed or not.
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
    """Set the variants of a group beside its `dense`, and beside its `plain` with the same counts, or its only one."""
    dense = next(seen.images_per_sec for seen in measured if seen.variant.name == DENSE)
    plain = {seen.variant.mediators: seen.images_per_sec for seen in measured if seen.variant.name == PLAIN}
    only = next(iter(plain.values()), None)

    def to_plain(seen: VariantTiming) -> float | None:
        rate = plain.get(seen.variant.mediators, only)
        return None if rate is None else seen.images_per_sec / rate

    return [
        BenchRow(
            group=group,
            variant=seen.variant.name,
            mediators=seen.variant.mediators,
            dtype=seen.variant.dtype,
            compiled=seen.variant.compiled,
            num_images=seen.variant.num_images,
            gmacs=seen.gmacs(seen.variant.gmacs_a_call),
            gmacs_done=seen.gmacs(seen.variant.done_a_call),
            calls=seen.calls,
            seconds=seen.seconds,
            wall_seconds=Spread.of([reading.wall_seconds for reading in seen.readings]).median,
            peak_memory_mib=seen.peak_memory_mib,
            ratio_to_dense=seen.images_per_sec / dense,
            ratio_to_plain=to_plain(seen),
        )
        for seen in measured
    ]
