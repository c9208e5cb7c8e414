from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcli.errors import ConfigError
from medcli.settings.network import NetworkSource, parse_layers


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("0-3", (0, 1, 2, 3)),
        ("0,2,5", (0, 2, 5)),
        ("5,0-2,1", (0, 1, 2, 5)),
        ("all", (0, 1, 2, 3, 4, 5)),
        ("none", ()),
        ("auto", (0, 1, 2, 3, 4, 5)),
        ("5-5", (5,)),
    ],
)
def test_blocks_are_named_one_by_one_by_ranges_or_by_a_word(text: str, blocks: tuple[int, ...]) -> None:
    assert parse_layers(text, 6) == blocks


def test_auto_is_the_papers_choice_for_networks_as_deep() -> None:
    assert parse_layers("auto", 28) == (0, 1, 2, 3)
    assert parse_layers("auto", 2) == (0, 1)


@pytest.mark.parametrize("text", ["", "3-1", "a", "0--2", "-1", "0,,2", "1-2-3", "All"])
def test_text_that_names_no_blocks_is_refused_with_the_spellings_there_are(text: str) -> None:
    with pytest.raises(ConfigError, match="names no blocks") as caught:
        parse_layers(text, 6)
    assert "--layers 0-3" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["6", "0-6", "0,99999999999", "0-99999999999"])
def test_a_block_the_model_lacks_is_named_with_the_range_there_is(text: str) -> None:
    with pytest.raises(ConfigError, match="no block") as caught:
        parse_layers(text, 6)
    assert caught.value.hint == "blocks are numbered 0-5"


@given(st.sets(st.integers(0, 27), min_size=1))
def test_reading_the_written_form_of_a_set_of_blocks_gives_it_back(blocks: set[int]) -> None:
    assert parse_layers(",".join(map(str, blocks)), 28) == tuple(sorted(blocks))


def test_only_ascii_digits_are_block_numbers() -> None:
    for text in ("1_0", "\u0661", "+1", "9" * 5000):
        with pytest.raises(ConfigError, match="names no blocks"):
            parse_layers(text, 28)


def test_a_source_resolves_its_layers_against_the_depth() -> None:
    assert NetworkSource(layers="all").layers_of(3) == (0, 1, 2)
    assert NetworkSource(layers="none").layers_of(3) == ()
    assert NetworkSource().layers_of(3) is None
