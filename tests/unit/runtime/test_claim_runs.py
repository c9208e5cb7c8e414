"""Simulated processes take runs of items: how often they lock, and when the last of them ends."""

from __future__ import annotations

import heapq

import pytest

from medcli.runtime.claim_runs import run_length


def runs_of(number: int, count: int, batch: int) -> list[int]:
    """Lengths of all runs; who takes them changes nothing."""
    runs, rest = list[int](), number
    while rest:
        runs.append(run_length(rest, count, batch))
        rest -= runs[-1]
    return runs


@pytest.mark.parametrize("number", [400, 2_000, 50_000, 1_000_000])
@pytest.mark.parametrize("count", [1, 8, 32, 64])
def test_lock_calls_a_picture_do_not_grow_and_are_few_where_a_process_makes_many(number: int, count: int) -> None:
    for batch in (8, 64):
        runs = runs_of(number, count, batch)
        assert runs == sorted(runs, reverse=True)
        assert all(run % batch == 0 for run in runs[:-1])
        # Below that, two lock calls for 40 pictures would leave processes without work.
        if number >= 200 * count or batch >= 40:
            assert 2 * len(runs) / number <= 0.05


def makespan(starts: list[float], batch_s: list[float], number: int, batch: int) -> float:
    """Return when the last of some processes ends that take runs and make batches of them."""
    turns = [(start, process) for process, start in enumerate(starts)]
    held, rest, end = [0] * len(starts), number, 0.0
    while turns:
        now, process = heapq.heappop(turns)
        count = sum(start <= now for start in starts)
        while held[process] < batch and rest:
            run = run_length(rest, count, batch)
            held[process], rest = held[process] + run, rest - run
        if held[process]:
            held[process] = max(0, held[process] - batch)
            end = max(end, now + batch_s[process])
            heapq.heappush(turns, (now + batch_s[process], process))
    return end


@pytest.mark.parametrize(("number", "count", "batch"), [(2_000, 8, 8), (2_000, 32, 8), (50_000, 64, 64)])
def test_processes_of_different_speed_end_together(number: int, count: int, batch: int) -> None:
    even = [1.0] * count
    assert makespan([0.0] * count, even, number, batch) == -(-number // (batch * count))
    mixed = [1 + place / count for place in range(count)]
    best = number / batch / sum(1 / batch_s for batch_s in mixed)
    assert makespan([0.0] * count, mixed, number, batch) <= best + max(mixed)
    # Whoever comes first, alone, takes no more than a run.
    late = [0.0] + [0.5] * (count - 1)
    assert makespan(late, even, number, batch) <= 0.5 + max(-(-number // (batch * count)), 128 / batch) + 1
