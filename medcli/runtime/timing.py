"""Timing: a clock that fits the device, interleaved rounds, median and quartiles."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Reading:
    """Duration of one run."""

    seconds: float
    """By the clock that is compared."""
    wall_seconds: float
    """By the wall clock."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clock:
    """A clock; its parts can be replaced by tests."""

    name: str
    """`thread_cpu`, `wall`, or `wall_synchronised` for asynchronous devices."""
    now: Callable[[], float]
    """Seconds from any start, of the clock that is compared."""
    wall: Callable[[], float]
    """Seconds from any start, of the wall clock."""
    synchronize: Callable[[], object]
    """Waits until the device has finished its queue."""

    def time(self, work: Work) -> Reading:
        """Time one run, synchronized before and after."""
        self.synchronize()
        wall, now = self.wall(), self.now()
        work()
        self.synchronize()
        return Reading(seconds=self.now() - now, wall_seconds=self.wall() - wall)


def clock_for(device: torch.device, num_threads: int) -> Clock:
    """Return the clock for a device.

    One thread on a CPU is timed by the CPU time it got, which other programs on the machine hardly change; several
    threads by the wall, for waiting for each other is part of their work; a GPU by the wall between two
    synchronisations, so that the launching of its kernels counts where it is what limits.

    Args:
        num_threads: Threads of an operation on the CPU.
    """
    if device.type == "cuda":
        name, synchronize = "wall_synchronised", lambda: torch.cuda.synchronize(device)
    elif device.type == "mps":
        name, synchronize = "wall_synchronised", torch.mps.synchronize
    else:
        name, synchronize = "thread_cpu" if num_threads == 1 else "wall", lambda: None
    now = time.thread_time if name == "thread_cpu" else time.perf_counter
    return Clock(name=name, now=now, wall=time.perf_counter, synchronize=synchronize)


@contextmanager
def thread_limit(num_threads: int | None) -> Iterator[int]:
    """Limit torch to this many threads on the CPU, None: its default; yields the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def take_turns(
    works: Sequence[Work], repeats: int, clock: Clock, after_run: Callable[[], object] = lambda: None
) -> list[list[Reading]]:
    """Time each work once a round, so that a machine that slows down affects all alike.

    Args:
        works: The works; warmed up by the caller.
        repeats: Rounds.
        clock: The clock.
        after_run: Called after each run, untimed.

    Returns:
        The readings of each work, by round.
    """
    readings: list[list[Reading]] = [[] for _ in works]
    for _ in range(repeats):
        for work, own in zip(works, readings, strict=True):
            own.append(clock.time(work))
            after_run()
    return readings


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles of some values."""

    median: float
    q1: float
    q3: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Quartiles as numpy's default has them, by linear interpolation; a single value is all three.

        Raises:
            ValueError: If there are no values.
        """
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, q1, q3)
