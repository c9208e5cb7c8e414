from __future__ import annotations

from threading import Event

import pytest

from medcli.data.read_ahead import ReadAhead
from medcli.errors import DataError


def fill(place: int, row: memoryview) -> None:
    if place < 0:
        raise DataError(f"row {place} is lost", hint="find it")
    row[:] = bytes([place, place + 1])


def test_rows_are_in_the_order_of_their_places() -> None:
    ahead = ReadAhead(fill, 2)
    places = [7, 3, 3, *range(100), 0]
    ahead.expect(places[1:])  # another batch
    assert ahead.read(places).tolist() == [[place, place + 1] for place in places]
    assert ahead.read([]).shape == (0, 2)


def test_rows_that_can_not_be_read_are_counted_whether_expected_or_not() -> None:
    ahead = ReadAhead(fill, 2)
    ahead.expect([1, -2, 5, -4])
    for _ in range(2):
        with pytest.raises(DataError, match="2 files can't be used, the first: row -2 is lost"):
            ahead.read([1, -2, 5, -4])
    with pytest.raises(DataError, match=r"^row -4 is lost$"):
        ahead.read([1, -4])


def test_rows_are_read_at_once_and_dropped_batches_leave_no_trace() -> None:
    begun, asked = set[int](), Event()

    def wait(place: int, row: memoryview) -> None:
        begun.add(place)
        if len(begun) == 16:
            asked.set()
        assert asked.wait(10)  # else they are read one after the other

    ahead = ReadAhead(wait, 1)
    ahead.expect(range(16))
    ahead.read(range(16))
    for number in range(3 * ahead.MAX_COMING):
        ahead.expect([number])
    assert len(ahead._coming) == ahead.MAX_COMING


def test_a_batch_expected_twice_is_read_once() -> None:
    counts: list[int] = []
    ahead = ReadAhead(lambda place, _row: counts.append(place), 1)
    ahead.expect([4, 5])
    ahead.expect([4, 5])
    ahead.read([4, 5])
    assert sorted(counts) == [4, 5]
