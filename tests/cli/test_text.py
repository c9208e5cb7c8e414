"""Numbers as people read them, and text wrapped between words."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcli.cli.text import count_text, macs_text, padded, wrapped

LINES = st.lists(st.text("abé-/'", min_size=1, max_size=30), min_size=1, max_size=20).map(" ".join)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (9_999, "9,999"), (10_000, "10.0 K"), (675_800_000, "676 M"), (999_960, "1.00 M"), (10**9, "1.00 G")],
)
def test_large_counts_are_written_in_three_digits(number: int, text: str) -> None:
    assert count_text(number) == text


@pytest.mark.parametrize(
    ("giga", "text"),
    [(118.689, "118.69 G"), (2910.296, "2.91 T"), (0.0307681, "30.77 M"), (999.996, "1.00 T"), (0.0, "0.00")],
)
def test_multiply_adds_are_written_with_the_decimals_of_the_papers(giga: float, text: str) -> None:
    assert macs_text(giga) == text


@given(LINES, st.integers(30, 100))
def test_wrapped_lines_fit_and_hold_every_word(text: str, width: int) -> None:
    lines = wrapped(text, width, breaks_paths=False)
    assert " ".join(lines).split() == text.split()
    assert all(len(line) <= width for line in lines)


@given(LINES, st.integers(40, 100))
def test_padding_changes_spaces_outside_quoted_words_only(text: str, width: int) -> None:
    assert padded(text, width).split() == text.split()
    assert "'two  words'" in padded(f"{text} 'two  words'", width)


def test_a_padded_line_has_no_word_across_the_edge_of_the_terminal() -> None:
    text = "hint: medcli fid samples/digits --reference 'my own images' --metrics fid,precision,recall --batch-size 20"
    rows = re.findall(".{1,40}", padded(text, 40))
    assert all(word in " ".join(rows).split() for word in text.split())
