"""What users write for lists of numbers, blocks and one of a few words."""

from __future__ import annotations

import pytest

from medcli.cli.options import parse_floats, parse_ints
from medcli.errors import ConfigError
from tests.conftest import RunCli


def test_lists_of_numbers_are_read_in_the_order_given() -> None:
    assert parse_ints("4,16,64") == (4, 16, 64)
    assert parse_ints(" 4 , 16") == (4, 16)
    assert parse_floats("0.3,1e-1") == (0.3, 0.1)


@pytest.mark.parametrize("text", ["", "4,", "4;16", "4.5", "four"])
def test_a_list_that_is_not_whole_numbers_names_the_flag_and_shows_the_way(text: str) -> None:
    with pytest.raises(ConfigError, match="--classes") as caught:
        parse_ints(text, "--classes")
    assert caught.value.hint == "write it like --classes 1,2,3"


@pytest.mark.parametrize("text", ["", "a", "0.3,,0.1", "inf", "nan", "0.3,-inf"])
def test_thresholds_are_finite_numbers(text: str) -> None:
    with pytest.raises(ConfigError, match="--rho") as caught:
        parse_floats(text)
    assert caught.value.hint == "write it like --rho 0.3,0.1"


@pytest.mark.parametrize(("word", "near"), [("Dynamik", "dynamic"), ("stat", "static"), ("?", "full")])
def test_a_word_that_is_no_choice_is_answered_with_the_choices_and_the_nearest(
    word: str, near: str, run_cli: RunCli
) -> None:
    result = run_cli("flops", "--schedule", word)
    assert result.code == 2
    assert result.err.splitlines() == [
        f"error: --schedule {word!r}: expected one of full, static, dynamic",
        f"hint: write it like --schedule {near}",
    ]


def test_a_seed_longer_than_the_noises_key_is_refused(run_cli: RunCli) -> None:
    """It would be taken modulo 2^64, so that another seed gave the same images."""
    assert run_cli("sample", "--seed", 2**64, "--classes", "99").code == 2
    assert "--seed must be in" in run_cli("sample", "--seed", 2**64, "--classes", "99").err
    assert "class 99" in run_cli("sample", "--seed", 2**64 - 1, "--classes", "99").err
