from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcli.errors import ConfigError
from medcli.settings.parsers import MAX_FOLDERS, parse_count, parse_float, parse_int, parse_path


@pytest.mark.parametrize("text", ["1_000", "\u0661", " ", "", "1e3", "9" * 101, "--5"])
def test_other_spellings_of_whole_numbers_are_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  the caller makes the message
        parse_int(text)


@given(st.integers(-(10**18), 10**18))
def test_whole_numbers_are_read_as_written(number: int) -> None:
    assert parse_int(str(number)) == number


@given(st.floats(allow_nan=False))
def test_numbers_are_read_as_written(number: float) -> None:
    assert parse_float(repr(number)) == number


def test_full_attention_is_the_count_0() -> None:
    assert [parse_count(text) for text in ("full", " full ", "16")] == [0, 0, 16]


def test_a_path_is_not_empty_and_not_too_deep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert parse_path("~/a") == Path("/home/someone/a")
    with pytest.raises(ValueError):  # noqa: PT011  the caller makes the message
        parse_path(" ")
    with pytest.raises(ConfigError, match="too long"):
        parse_path("a/" * (MAX_FOLDERS + 1))
