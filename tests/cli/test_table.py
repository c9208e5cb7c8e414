"""Tables in terminals of every width."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from medcli.cli.table import FittedTable, table_of
from medcli.cli.text import LONG_WORD
from medcli.runtime.text import count_text

COLUMNS = ("model", "px", "mediators", "GMACs", "GMACs (executed)", "params", "saved %")
ROWS = [("SiT-XL/2", 1024, "4,16,64", "2,910.296", "2,715.019", count_text(679_552_312), "5.30")] * 3
TABLE = table_of(COLUMNS, ROWS, caption="one image; " * 20, optional=("params", "GMACs (executed)"))


def drawn(table: FittedTable, width: int) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=False, color_system=None).print(table, soft_wrap=True)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [30, 60, 80, 100, 10_000])
def test_no_number_is_cut_and_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = drawn(TABLE, width)
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    shown = [cell for place, cell in enumerate(map(str, ROWS[0])) if COLUMNS[place].split()[-1] in text]
    assert len(shown) >= 5
    for cell in shown:
        assert text.count(cell) >= len(ROWS), cell


def test_columns_go_in_the_order_given_before_rows_become_blocks() -> None:
    headings = {width: " ".join(" ".join(drawn(TABLE, width)).split()) for width in (100, 60, 50, 30)}
    assert "params" in headings[100]
    assert "params" not in headings[60]
    assert "executed" in headings[60]
    assert "executed" not in headings[50]
    assert headings[30].startswith("model SiT-XL/2 px 1024")
    assert "params 680 M" in headings[30]


CELLS = st.integers(-(10**9), 10**12).map(str) | st.floats(0, 1e9).map("{:,.3f}".format) | st.none()
TABLES = st.integers(1, 8).flatmap(
    lambda size: st.lists(st.tuples(*[CELLS] * size), min_size=1, max_size=4).map(
        lambda rows: table_of([f"column {place}" for place in range(size)], rows, optional=["column 0"][: size - 1])
    )
)


@given(TABLES, st.integers(30, 120))
def test_any_table_of_numbers_fits_with_its_numbers_whole(table: FittedTable, width: int) -> None:
    lines = drawn(table, width)
    assert all(len(line) <= width for line in lines)
    words = " ".join(lines).split()
    for row in table.rows:
        for cell in row[1:]:
            assert cell in words


WORDS = st.text("abc/-,é漢", min_size=1, max_size=60)
TEXTS = st.lists(WORDS, min_size=1, max_size=12).map(" ".join)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3), st.integers(40, 120))
def test_words_are_never_cut_and_long_paths_only_after_their_slashes(rows: list[tuple[str, str]], width: int) -> None:
    shown = [piece for line in drawn(table_of(("a", "b"), rows), width) for piece in line.split()]
    for word in " ".join(map(" ".join, rows)).split():
        pieces = [word] if cell_len(word) <= LONG_WORD else re.findall(r"[^/]*/+|[^/]+$", word)
        assert all(any(piece in one for one in shown) for piece in pieces)


def test_spare_characters_go_first_to_the_columns_that_need_few() -> None:
    lines = drawn(table_of(("name", "found"), [("fused attention, cpu", "word " * 40), ("gpu", "none")]), 80)
    assert any("fused attention, cpu" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_an_optional_column_must_be_one() -> None:
    with pytest.raises(ValueError, match="no column 'x'"):
        table_of(("a",), [(1,)], optional=("x",))
