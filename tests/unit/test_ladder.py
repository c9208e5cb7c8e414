"""Ladders: which rise, and what is said of the others."""

from __future__ import annotations

import pytest

from medcli.errors import ConfigError
from medcli.ladder import check_ladder, check_rungs, listing, ranges


@pytest.mark.parametrize("counts", [(), (1,), (4, 16, 64)])
def test_rising_squares_are_a_ladder_and_full_attention_may_end_it(counts: tuple[int, ...]) -> None:
    check_ladder(counts)
    check_rungs((*counts, 0))


@pytest.mark.parametrize(
    ("counts", "problem", "hint"),
    [
        ((5,), "5 is not a perfect square", "use 4 or 9"),
        ((-4,), "-4 is not a perfect square", "use 1 or 4"),
        ((16, 4), "must rise, got 16,4", "--mediators 4,16"),
        ((4, 4), "must rise, got 4,4", "--mediators 4"),
        ((0, 4), "can only end a ladder", "4,16,full"),
    ],
)
def test_other_counts_are_refused(counts: tuple[int, ...], problem: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        check_rungs(counts)
    assert caught.value.hint
    assert hint in caught.value.hint


def test_full_attention_is_no_part_of_a_models_ladder() -> None:
    with pytest.raises(ConfigError, match="0 is not a perfect square"):
        check_ladder((4, 0))


def test_numbers_are_written_as_flags_take_them() -> None:
    assert listing((4, 16)) == "4,16"


@pytest.mark.parametrize(
    ("numbers", "text"), [((0, 1, 2, 5), "0-2,5"), ((3,), "3"), ((0, 2, 4), "0,2,4"), ((), ""), ((1, 2), "1-2")]
)
def test_layers_are_written_as_the_layers_flag_takes_them(numbers: tuple[int, ...], text: str) -> None:
    assert ranges(numbers) == text
