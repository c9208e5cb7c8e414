"""Fronts, and the selection of finalists."""

from hypothesis import given
from hypothesis import strategies as st

from medcli.tuning.pareto import best_within, front, spread
from medcli.tuning.search import Proposal, finalists
from medcli.tuning.space import FULL_ATTENTION, Configuration

POINTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30)


def cost(point):
    return point[0]


def error(point):
    return point[1]


@given(POINTS)
def test_the_front_is_what_nothing_beats(points):
    found = front(points, cost, error)
    assert found == sorted(found)
    for point in points:
        assert any(other[0] <= point[0] and other[1] <= point[1] for other in found)
    for one in found:
        assert not any(other != one and other[0] <= one[0] and other[1] <= one[1] for other in points)


@given(POINTS, st.integers(0, 9))
def test_the_best_within_a_budget_is_the_cheapest_of_least_error(points, limit):
    chosen = best_within(points, limit, cost, error)
    allowed = [point for point in points if point[0] <= limit]
    assert chosen == (min(allowed, key=lambda point: (point[1], point[0])) if allowed else None)


def test_a_spread_keeps_both_ends():
    assert spread(list(range(10)), 4) == [0, 3, 6, 9]
    assert spread([1, 2], 5) == [1, 2]
    assert spread([1, 2, 3], 1) == [1]
    assert spread([1, 2, 3], 0) == []


def proposal(cost, error, layers=(0,), counts=(1,), rho=()):
    return Proposal(configuration=Configuration(layers, counts, rho), cost=cost, error=error)


DENSE = Proposal(configuration=FULL_ATTENTION, cost=10.0, error=0.0)
CHEAPEST = proposal(1.0, 9.0)
OTHER = [proposal(5.0 + n / 10, 3.0 + n / 10, (1,), (1, 4), (0.5 + n / 100,)) for n in range(9)]
FAMILY = [proposal(5.0 + n / 10, 4.0 + n / 10, (0, 1), (1, 4), (0.5 + n / 100,)) for n in range(9)]
PROPOSALS = [*FAMILY, *OTHER, DENSE, CHEAPEST]


def test_finalists_are_both_ends_and_the_best_of_each_family_in_the_budget():
    chosen = finalists(PROPOSALS, 6, limit=6.0)
    assert chosen[:2] == [DENSE, CHEAPEST]
    assert OTHER[0] in chosen
    beaten = proposal(6.0, 4.0, (0, 1))  # off the front, and exactly the budget
    assert beaten in finalists([DENSE, CHEAPEST, OTHER[0], beaten], 6, limit=6.0)
    assert FAMILY[0] in chosen
    assert len(chosen) == len(set(chosen)) <= 6
    assert set(finalists(PROPOSALS, 1, limit=6.0)) == {DENSE, CHEAPEST}
