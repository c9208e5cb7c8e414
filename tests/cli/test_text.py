"""Text wrapped between words."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from medcli.cli.text import padded, wrapped

LINES = st.lists(st.text("abé-/", min_size=1, max_size=30), min_size=1, max_size=20).map(" ".join)


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
