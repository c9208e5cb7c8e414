import threading
import time

import pytest

from medcli.runtime.prefetch import prefetch


def test_values_come_in_order_from_another_thread():
    with prefetch(lambda number: (number**2, threading.current_thread()), range(20)) as made:
        values = [(number, square, thread is threading.current_thread()) for number, (square, thread) in made]
    assert values == [(number, number**2, False) for number in range(20)]


def test_no_more_is_made_ahead_than_promised():
    made: list[int] = []
    with prefetch(lambda number: made.append(number), range(100)) as values:
        for number, _ in values:
            time.sleep(0.001)
            assert len(made) <= number + 3
            if number == 10:
                break
    assert len(made) <= 13


def test_what_is_raised_is_raised_where_the_value_is_taken_and_the_thread_ends():
    def make(number):
        if number == 3:
            raise ValueError("three")
        return number

    taken = []
    with pytest.raises(ValueError, match="three"), prefetch(make, range(10)) as values:
        taken.extend(number for number, _ in values)
    assert taken == [] or taken == [0, 1, 2]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("medcli-batches")]


def test_the_thread_ends_when_the_block_is_left_early():
    with prefetch(lambda number: number, range(10)) as values:
        next(values)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("medcli-batches")]


def test_nothing_to_make_is_no_problem():
    with prefetch(lambda number: number, ()) as values:
        assert list(values) == []
