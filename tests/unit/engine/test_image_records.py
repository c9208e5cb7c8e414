from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from medcli.engine.image_records import IndexSet, Record, totals_of


@given(st.lists(st.integers(0, 300)), st.integers(0, 400))
def test_it_is_a_set_that_iterates_in_rising_order(added: list[int], limit: int) -> None:
    numbers = IndexSet()
    for number in added:
        numbers.add(number)
    assert list(numbers) == sorted(set(added))
    assert len(numbers) == len(set(added))
    assert all((number in numbers) == (number in added) for number in range(301))
    assert numbers.count_below(limit) == sum(number < limit for number in set(added))


def record_of(index: int, *switch_steps: int) -> Record:
    return Record(index=index, label=3, file=f"{index:06d}.png", switch_steps=switch_steps, gmacs=1.5)


def test_totals_are_over_the_images_and_mean_moves_over_those_that_made_them() -> None:
    records = [record_of(0, 4, 8), record_of(1, 6), record_of(2)]
    totals = totals_of(records, 3)
    assert totals.switch_steps_mean == (5.0, 8.0, None)
    assert totals.switch_steps == ((4, 8), (6,), ())
    assert totals.gmacs == 1.5
    assert totals_of(records[:0], 1).switch_steps_mean == (None,)


def test_totals_do_not_depend_on_the_order_images_finished_in() -> None:
    records = [Record(index=i, label=0, file="", switch_steps=(), gmacs=0.1 * 3**i) for i in range(30)]
    assert totals_of(records, 0) == replace(totals_of(records[::-1], 0), switch_steps=((),) * 30)
