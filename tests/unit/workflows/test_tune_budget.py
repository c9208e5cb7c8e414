"""Budgets of a tuning against costs that are rounded, and the choice between rows."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcli.errors import ConfigError
from medcli.schedule.spec import FULL
from medcli.settings.analysis import TuneRequest, parse_saving
from medcli.workflows.tune.report import Row, choose, difference, is_better
from medcli.workflows.tune.request import Budget, budget_of, rounded_up

COSTS = st.floats(1e-3, 1e6)


@given(COSTS, st.integers(2, 50))
def test_a_saving_allows_exactly_its_share_of_the_baseline(call, calls):
    budget = Budget("saving", 1 - calls / 250)
    assert budget.allows(sum([call] * calls), 250 * call)
    assert not budget.allows((calls + 1) * call, 250 * call)


@given(st.sampled_from(["saving", "gmacs", "seconds"]), COSTS, st.floats(0.001, 0.99))
def test_the_nearest_possible_that_is_named_is_possible(kind, baseline, share):
    cheapest = share * baseline if kind == "saving" else share
    error = Budget(kind, 0.999999 if kind == "saving" else 1e-9).out_of_reach(cheapest, baseline)
    word = error.message.rpartition(" ")[2]
    value = parse_saving(word) if kind == "saving" else float(word)
    if value:
        assert Budget(kind, value).allows(cheapest, baseline)


def test_ninety_percent_is_written_in_three_ways():
    assert parse_saving("90%") == parse_saving("90") == parse_saving("0.9") == 0.9
    assert parse_saving("0.5%") == 0.005
    assert parse_saving("1") == parse_saving("1%") == 0.01


@given(COSTS, st.integers(1, 9))
def test_a_displayed_cost_is_a_budget_that_allows_the_cost(cost, digits):
    shown = rounded_up(cost, digits)
    assert Budget("gmacs", float(shown)).allows(cost, 1e9)
    assert float(shown) <= cost * (1 + 10 ** (1 - digits))


def test_several_budgets_are_refused_and_none_is_none():
    assert budget_of(TuneRequest()) is None
    assert budget_of(TuneRequest(calls=12)) == Budget("calls", 12)
    with pytest.raises(ConfigError, match="one budget, got --saving 90% and --seconds 2"):
        budget_of(TuneRequest(saving=0.9, seconds=2.0))


def row(gmacs: float, *, errors: tuple[float, ...] | None = None, **values: Any) -> Row:
    shape = {
        "steps": 4,
        "calls": 4,
        "schedule": FULL,
        "networks": (0,) * 4,
        "interval": None,
        "gmacs_done": gmacs,
        "saving": 0.5,
    }
    score = {"fid": None, "fid_standard_error": None, "fid_deviations": None, **values}
    return Row(**{**shape, **score}, gmacs=gmacs, errors=errors, seconds=gmacs, plan_sha256=str(gmacs))


def test_with_a_budget_the_best_is_chosen_and_without_the_cheapest_that_is_good():
    rows = [row(1, errors=(0.5, 0.7)), row(2, errors=(0.01, 0.03)), row(3, errors=(0.01, 0.01))]
    assert choose(rows, "error", is_limited=True) is rows[2]
    assert choose(rows, "error", is_limited=False) is rows[1]
    assert choose(rows[:1], "error", is_limited=False) is rows[0]


def test_without_a_budget_a_score_that_is_not_surely_worse_is_good_enough():
    rows = [
        row(1, fid=3.0, fid_standard_error=0.5, fid_deviations=(0.3, 0.4)),
        row(2, fid=2.05, fid_standard_error=0.5, fid_deviations=(0.3, 0.42)),
        row(3, fid=2.0, fid_standard_error=0.5, fid_deviations=(0.3, 0.45)),
    ]
    assert choose(rows, "fid", is_limited=False) is rows[1]
    assert choose(rows, "fid", is_limited=True) is rows[2]


def test_differences_are_of_pairs():
    left, right = row(1, errors=(0.1, 0.2, 0.3)), row(2, errors=(0.2, 0.3, 0.4))
    value, error = difference(left, right, "error")
    assert (value, error) == (pytest.approx(-0.1), pytest.approx(0, abs=1e-12))
    assert is_better(left, right, "error")
    assert not is_better(right, left, "error")
    assert not is_better(left, left, "error")
    scores = (row(1, fid=1.0, fid_standard_error=3.0), row(2, fid=2.0, fid_standard_error=4.0))
    assert difference(*scores, "fid") == (-1.0, math.hypot(3, 4))
    assert not is_better(*scores, "fid")
