from itertools import pairwise

from medcli.schedule.spec import FULL
from medcli.tuning.candidates import (
    ALWAYS,
    CALLS,
    INTERVALS,
    Candidate,
    Interval,
    calls_up_to,
    candidates,
    schedules,
    spread,
)

MACS = {0: 100, 1: 91, 4: 93, 16: 97}


def once(calls: int, _interval: Interval) -> tuple[int, ...]:
    return (1,) * calls


def twice_late(calls: int, interval: Interval) -> tuple[int, ...]:
    return tuple(1 + (interval[0] <= step / calls < interval[1]) for step in range(calls))


def test_networks_by_progress_are_full_each_count_alone_early_counts_and_rising_ladders() -> None:
    made = [(schedule.counts, schedule.at) for schedule in schedules((4, 16))]
    assert made == [
        *(((0,), ()), ((4,), ()), ((16,), ())),
        *(((count, 0), (start,)) for count in (4, 16) for start in (0.25, 0.5)),
        ((4, 16, 0), (1 / 3, 2 / 3)),
        ((4, 16), (0.5,)),
    ]
    assert [schedule.counts for schedule in schedules(())] == [(0,)]
    assert [schedule.counts for schedule in schedules((4,))] == [(0,), (4,), (4, 0), (4, 0)]


def test_the_largest_number_of_calls_is_tried_and_those_just_below_are_not() -> None:
    assert calls_up_to(25) == (4, 6, 8, 12, 16, 25)
    assert calls_up_to(12) == (4, 6, 8, 12)
    assert calls_up_to(2) == (2,)
    assert calls_up_to(1) == calls_up_to(0) == ()


def test_the_cost_is_the_exact_sum_over_steps_of_network_and_halves() -> None:
    candidate = Candidate(8, schedules((4, 16))[-2], (0.5, 1.0))
    assert candidate.macs(MACS, once) == 3 * 93 + 3 * 97 + 2 * 100
    assert candidate.macs(MACS, twice_late) == 3 * 93 + 1 * 97 + 2 * (2 * 97 + 2 * 100)


def test_every_combination_comes_once_and_uses_all_of_its_networks() -> None:
    found = list(candidates((1, 4, 16), INTERVALS, twice_late, lambda schedule, interval: (2,)))
    keys = [(one.schedule.networks(one.steps), twice_late(one.steps, one.interval)) for one in found]
    assert len(keys) == len(set(keys))
    assert all(set(one.schedule.networks(one.steps)) == set(one.schedule.counts) for one in found)
    assert {one.schedule.counts for one in found} == {(0,), (1,), (4,), (16,), (1, 0), (4, 0), (16, 0)}
    unguided = list(candidates((1, 4, 16), INTERVALS, once, lambda schedule, interval: CALLS))
    assert {one.interval for one in unguided} == {ALWAYS}
    assert {one.steps for one in unguided} == set(CALLS)


def test_the_numbers_of_calls_rise() -> None:
    assert all(one < other for one, other in pairwise(CALLS))


def test_networks_change_at_their_shares_of_the_steps() -> None:
    assert schedules((4, 16))[-2].networks(8) == (4, 4, 4, 16, 16, 16, 0, 0)


def test_a_step_of_several_calls_costs_all_of_them() -> None:
    assert Candidate(3, schedules((4,))[-1]).macs(MACS, lambda steps, interval: (2,) * (steps - 1)) == 2 * 93 + 2 * 100


def test_finalists_are_spread_over_the_costs_with_both_ends() -> None:
    items = [Candidate(steps, FULL) for steps in range(2, 12)]
    assert [one.steps for one in spread(items, 4)] == [2, 5, 8, 11]
    assert [one.steps for one in spread(items, 2)] == [2, 11]
    assert [one.steps for one in spread(items, 1)] == [11]
    assert spread(items, None) == spread(items, 10) == spread(items, 99) == items
    assert spread([], 3) == []
    assert all(len({one.steps for one in spread(items, number)}) == number for number in range(1, 11))
