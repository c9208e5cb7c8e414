import math

import pytest

import medcli
from medcli.errors import ConfigError
from medcli.schedule.dynamic import DynamicSchedule


def entries(schedule: DynamicSchedule, distances: list[float]) -> list[int]:
    state, seen = schedule.start(), []
    for distance in distances:
        state = schedule.observe(state, distance)
        seen.append(state.index)
    return seen


LADDER = DynamicSchedule(ladder=(4, 16, 64), rho=(0.5, 0.25), warmup_steps=2)


def test_package_offers_the_schedule() -> None:
    assert medcli.DynamicSchedule is DynamicSchedule


def test_entries_rise_when_distances_fall_below_their_thresholds() -> None:
    assert entries(LADDER, [2.0, 4.0, 1.5, 1.49, 0.75, 0.74]) == [0, 0, 0, 1, 1, 2]


def test_both_moves_may_happen_at_once_and_none_is_undone() -> None:
    assert entries(LADDER, [1.0, 1.0, 0.1, 5.0]) == [0, 0, 2, 2]


def test_warm_up_never_moves() -> None:
    assert entries(LADDER, [1.0, 0.0]) == [0, 0]


@pytest.mark.parametrize("distances", [[0.0] * 5, [math.nan] * 5, [1.0, math.nan, 0.0, 0.0], [1.0, 1.0, math.nan]])
def test_ties_zero_baselines_and_nan_never_move(distances: list[float]) -> None:
    assert entries(LADDER, distances)[-1] == 0


def test_observing_leaves_the_old_state_as_it_was() -> None:
    start = LADDER.start()
    LADDER.observe(start, 1.0)
    assert start == LADDER.start()


@pytest.mark.parametrize(
    "values",
    [
        {"ladder": (4, 16), "rho": (0.3, 0.1)},
        {"ladder": (4, 16), "rho": ()},
        {"ladder": (), "rho": ()},
        {"ladder": (16, 4), "rho": (0.3,)},
        {"ladder": (4, 5), "rho": (0.3,)},
        {"ladder": (4, 16), "rho": (-0.1,)},
        {"ladder": (4, 16), "rho": (math.nan,)},
        {"ladder": (4, 16), "rho": (0.3,), "warmup_steps": 0},
    ],
)
def test_impossible_schedules_are_refused(values: dict) -> None:
    with pytest.raises(ConfigError):
        DynamicSchedule(**values)


def test_rising_thresholds_are_allowed_in_the_rule_itself() -> None:
    assert entries(DynamicSchedule(ladder=(1, 4, 16), rho=(0.2, 0.5), warmup_steps=1), [1.0, 0.3, 0.1]) == [0, 0, 2]
