"""Candidates of `tune`: network calls x networks by progress x guidance interval. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from medcli.schedule.spec import FULL, Schedule, static

Interval = tuple[float, float]
Passes = Callable[[int, Interval], tuple[int, ...]]
"""(steps, interval) -> forward passes of each step: 2 for a call where guidance runs the null half, too."""

CALLS = (4, 6, 8, 12, 16, 24)
"""Numbers of calls tried below the largest that a budget allows."""
FEWEST_STEPS, MOST_CALLS = 2, 50
"""With more calls the solver's error is a few thousandths, far below what a network or a score can tell."""
NEAR = 0.9
"""Numbers of calls above this share of the largest are left out: they cost as much and show less."""
STARTS = (0.25, 0.5)
"""Shares of the steps at which full attention takes over from a single count."""
ALWAYS: Interval = (0.0, 1.0)
INTERVALS: tuple[Interval, ...] = (ALWAYS, (0.3, 1.0))
"""Guidance intervals; the second leaves out the noisy end, as REPA's best ImageNet scores do."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Sampling plan of a candidate: solver steps, networks by progress, guidance interval."""

    steps: int
    """Solver steps; network calls of a multistep solver."""
    schedule: Schedule
    """Networks by progress: `full`, `static` or `timed`."""
    interval: Interval = ALWAYS

    def macs(self, macs_a_pass: Mapping[int, int], passes_of: Passes) -> int:
        """Return the multiply-adds of an image: the exact sum over its steps.

        Args:
            macs_a_pass: Of a forward pass at each count.
            passes_of: Returns the passes of each step.
        """
        passes = passes_of(self.steps, self.interval)
        networks = self.schedule.networks(len(passes))
        return sum(number * macs_a_pass[count] for number, count in zip(passes, networks, strict=True))


def schedules(counts: Sequence[int]) -> list[Schedule]:
    """List networks by progress: full attention, each count alone, each before full attention, and rising ladders.

    Args:
        counts: Mediator counts of the checkpoint, rising; none for a dense model.
    """
    made = [FULL, *map(static, counts)]
    made += [_timed((count, 0), (start,)) for count in counts for start in STARTS]
    for ladder in ((*counts, 0), tuple(counts)):
        if len(ladder) > 1 + (0 in ladder):  # of a single count the loop above has all
            made.append(_timed(ladder, tuple((place + 1) / len(ladder) for place in range(len(ladder) - 1))))
    return made


def _timed(counts: tuple[int, ...], at: tuple[float, ...]) -> Schedule:
    return Schedule(kind="timed", counts=counts, at=at)


def calls_up_to(most: int) -> tuple[int, ...]:
    """List numbers of calls up to the largest allowed, which is one of them; none if that is below the fewest."""
    return (*(calls for calls in CALLS if calls <= NEAR * most), most) if most >= FEWEST_STEPS else ()


def candidates(
    counts: Sequence[int],
    intervals: Sequence[Interval],
    passes_of: Passes,
    steps_of: Callable[[Schedule, Interval], Sequence[int]],
) -> Iterator[Candidate]:
    """Yield every combination whose networks all make a step, each choice of networks and guided steps once.

    Args:
        counts: Mediator counts to build ladders from.
        intervals: Guidance intervals.
        passes_of: Returns the passes of each step.
        steps_of: Returns the numbers of steps to try of a schedule and an interval.
    """
    seen = set()
    for schedule in schedules(counts):
        for interval in intervals:
            for steps in steps_of(schedule, interval):
                passes = passes_of(steps, interval)
                key = (schedule.networks(len(passes)), passes)
                if set(key[0]) == set(schedule.counts) and key not in seen:
                    seen.add(key)
                    yield Candidate(steps, schedule, interval)


def spread(items: Sequence[Candidate], number: int | None) -> list[Candidate]:
    """Keep at most this many of them, evenly spread: the last, then the first, then those between. None: all."""
    if number is None or number >= len(items):
        return list(items)
    last = len(items) - 1
    return [items[last - round(place * last / max(1, number - 1))] for place in reversed(range(number))]
