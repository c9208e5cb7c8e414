from hypothesis import given
from hypothesis import strategies as st

from medcli.engine.index_set import NumberSet


@given(st.lists(st.integers(0, 300)), st.integers(0, 400))
def test_it_is_a_set_that_iterates_in_rising_order(added: list[int], limit: int) -> None:
    numbers = NumberSet()
    for number in added:
        numbers.add(number)
    assert list(numbers) == sorted(set(added))
    assert len(numbers) == len(set(added))
    assert all((number in numbers) == (number in added) for number in range(301))
    assert numbers.count_below(limit) == sum(number < limit for number in set(added))
