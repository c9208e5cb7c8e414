import time
from collections.abc import Callable

import pytest
import torch

from medcli.runtime.timing import Clock, Reading, Spread, clock_for, take_turns, thread_limit


class FakeTime:
    """Two clocks that only move when told to."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.events: list[str] = []

    def clock(self) -> Clock:
        return Clock(
            name="fake",
            now=lambda: self.seconds,
            wall=lambda: 10 * self.seconds,
            synchronize=lambda: self.events.append("synchronize"),
        )

    def work(self, name: str, seconds: float) -> Callable[[], object]:
        def run() -> None:
            self.events.append(name)
            self.seconds += seconds

        return run


def test_a_run_is_timed_by_both_clocks_between_two_settled_moments() -> None:
    fake = FakeTime()
    assert fake.clock().time(fake.work("a", 2.0)) == Reading(seconds=2.0, wall_seconds=20.0)
    assert fake.events == ["synchronize", "a", "synchronize"]


def test_works_take_turns_round_by_round() -> None:
    fake, ran = FakeTime(), []
    works = [fake.work("a", 1.0), fake.work("b", 3.0)]
    readings = take_turns(works, 3, fake.clock(), lambda: ran.append(len(fake.events)))
    assert [event for event in fake.events if event != "synchronize"] == ["a", "b"] * 3
    assert [[reading.seconds for reading in own] for own in readings] == [[1.0] * 3, [3.0] * 3]
    assert ran == [3, 6, 9, 12, 15, 18]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([4.0], (4.0, 4.0, 4.0)), ([1.0, 3.0], (2.0, 1.5, 2.5)), ([5.0, 1.0, 2.0, 3.0, 100.0], (3.0, 2.0, 5.0))],
)
def test_spread_is_median_and_quartiles_by_linear_interpolation(
    values: list[float], expected: tuple[float, float, float]
) -> None:
    spread = Spread.of(values)
    assert (spread.median, spread.q1, spread.q3) == expected


@pytest.mark.parametrize(("threads", "name"), [(1, "thread_cpu"), (2, "wall")])
def test_one_thread_on_a_cpu_is_timed_by_the_cpu_time_it_gets(threads: int, name: str) -> None:
    clock = clock_for(torch.device("cpu"), threads)
    assert clock.name == name
    reading = clock.time(lambda: sum(range(10_000)))
    assert reading.seconds > 0
    assert reading.wall_seconds > 0


def test_work_that_sleeps_takes_no_cpu_time() -> None:
    reading = clock_for(torch.device("cpu"), 1).time(lambda: time.sleep(0.05))
    assert reading.wall_seconds >= 0.05
    assert reading.seconds < 0.05


def test_the_thread_limit_ends_with_its_block_however_it_ends() -> None:
    before = torch.get_num_threads()

    def fail_within_a_limit() -> None:
        with thread_limit(2) as threads:
            assert threads == torch.get_num_threads() == 2
            raise KeyError

    with pytest.raises(KeyError):
        fail_within_a_limit()
    assert torch.get_num_threads() == before
    with thread_limit(None) as threads:
        assert threads == before
