from hypothesis import given
from hypothesis import strategies as st

from medcli.tuning.pareto import front

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
