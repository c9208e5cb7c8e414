import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcli.engine import image_records
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


LINE = record_of(12, 3, 40).to_line()


def by_json(line: str) -> Record | None:
    """Read a line without the short way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_records, "LINE", re.compile("(?!)"))
        return Record.of_line(line)


@given(
    st.builds(
        Record,
        index=st.integers(0, 10**8 - 1),
        label=st.integers(0, 2**62),
        file=st.just(""),
        switch_steps=st.lists(st.integers(0, 300), max_size=4).map(tuple),
        gmacs=st.floats(0, 1e18),
    )
)
def test_lines_are_read_as_they_were_written_and_as_any_json_is(record: Record) -> None:
    record = replace(record, file=image_records.file_name(record.index))
    assert Record.of_line(record.to_line()) == record == by_json(record.to_line())


@given(st.integers(0, len(LINE) - 1), st.sampled_from(list('0123456789.,-+eE"[]{} \n\t\u0661')), st.integers(0, 2))
def test_a_damaged_line_is_what_json_says_it_is(place: int, sign: str, removed: int) -> None:
    line = LINE[:place] + sign + LINE[place + removed :]
    assert Record.of_line(line) == by_json(line)


def test_own_lines_take_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_records, "parse_json", None)
    assert Record.of_line(LINE) == record_of(12, 3, 40)
    assert Record.of_line(LINE.strip()) == record_of(12, 3, 40)
