from hypothesis import given
from hypothesis import strategies as st

from medcli.tuning.pareto import best_within, front, spread

Pair = tuple[int, int]
pairs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30)


def cost(pair: Pair) -> float:
    return pair[0]


def error(pair: Pair) -> float:
    return pair[1]


@given(pairs)
def test_the_front_holds_exactly_what_nothing_beats(items: list[Pair]) -> None:
    kept = front(items, cost, error)
    unbeaten = {
        item
        for item in items
        if not any(other != item and other[0] <= item[0] and other[1] <= item[1] for other in items)
    }
    assert set(kept) == unbeaten
    assert kept == sorted(unbeaten)


@given(st.integers(0, 40), st.integers(0, 12))
def test_a_spread_keeps_both_ends(length: int, number: int) -> None:
    kept = spread(range(length), number)
    assert len(kept) == min(length, number)
    assert kept == sorted(set(kept))
    if number > 1 and length:
        assert (kept[0], kept[-1]) == (0, length - 1)


@given(pairs, st.integers(0, 9))
def test_the_best_within_a_budget_is_the_cheapest_of_the_most_exact(items: list[Pair], limit: int) -> None:
    allowed = [item for item in items if item[0] <= limit]
    assert best_within(items, limit, cost, error) == min(allowed, key=lambda item: (item[1], item[0]), default=None)
