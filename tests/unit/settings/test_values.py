"""Reading and checking of values, from flags and from JSON."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcli.errors import ConfigError
from medcli.settings.declare import Setting, settings_of
from medcli.settings.finetune import FinetuneRequest
from medcli.settings.sampling import SampleRequest
from medcli.settings.values import from_json, parse_pairs, parse_text
from tests.conftest import RunCli

SAMPLE, FINETUNE = settings_of(SampleRequest), settings_of(FinetuneRequest)


def test_lists_of_numbers_are_read_in_the_order_given() -> None:
    assert parse_text(SAMPLE["mediators"], "4,16,64") == (4, 16, 64)
    assert parse_text(SAMPLE["mediators"], " 4 , 16") == (4, 16)
    assert parse_text(SAMPLE["rho"], "0.3,1e-1") == (0.3, 0.1)


@pytest.mark.parametrize("text", ["", "4,", "4;16", "4.5", "four", "1_6", "\u0664", "\uff11", "0x10"])
def test_a_list_of_whole_numbers_takes_ascii_digits_only(text: str) -> None:
    with pytest.raises(ConfigError, match="--amm-blocks") as caught:
        parse_text(SAMPLE["amm_blocks"], text)
    assert caught.value.hint == "write it like --amm-blocks 1,2,3"


@pytest.mark.parametrize("text", ["", "a", "0.3,,0.1", "inf", "nan", "0.3,-inf", "0_3", "\u0663"])
def test_thresholds_are_finite_numbers(text: str) -> None:
    with pytest.raises(ConfigError, match="--rho") as caught:
        parse_text(SAMPLE["rho"], text)
    assert caught.value.hint == "write it like --rho 0.3,0.1"


def test_a_tilde_is_the_home_folder_also_behind_an_equals_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert parse_pairs(SAMPLE["stage"], ["4=~/a.pt", "16=b.pt"]) == {4: Path("/home/someone/a.pt"), 16: Path("b.pt")}


@pytest.mark.parametrize("words", [["4"], ["=a"], ["four=a"], ["4="], ["4=a", "4=b"], ["1_6=a"]])
def test_pairs_are_a_number_and_a_path_each_number_once(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="--stage"):
        parse_pairs(SAMPLE["stage"], words)


def check_is_refused(made: Setting, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        from_json(made, value, f"{made.key} in x.toml")
    assert "x.toml" in caught.value.message
    assert "\n" not in caught.value.message


WRONG = {
    "steps": ["50", 50.0, True, [50], {}, 1, 10**12, -3],
    "rho": ["a", [0.3, "b"], [True], {}, [math.inf], math.nan],
    "sampler": ["sdes", 3, ["sde"], True],
    "cfg_scale": ["1.5", [1.5], -1, math.inf, math.nan, False, 10**400],
    "npz": ["yes", 1, 0, []],
    "mediators": [[4.0], "4;16", True, {"4": 16}],
    "stage": [4, "4", {"four": "a"}, [4], {"4": 7}],
    "seed": [-1, 2**64, 0.5, "0"],
    "classes": ["0,,1", [0.5], 1.5, [True]],
    "cfg_interval": [[0.1], [0.1, 0.2, 0.3], "0.1", 0.5],
    "output": [3, ["a"], False, ""],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values], ids=str)
def test_a_value_of_another_type_or_out_of_range_is_refused_with_its_source(key: str, value: Any) -> None:
    check_is_refused(SAMPLE[key], value)


RIGHT = {
    "steps": [(50, 50)],
    "rho": [([0.3, 0.1], (0.3, 0.1)), ("0.3,0.1", (0.3, 0.1)), (0.5, (0.5,)), ([1], (1.0,))],
    "mediators": [(16, (16,)), ([4, 16], (4, 16)), ("4,16", (4, 16))],
    "stage": [({"4": "a.pt"}, {4: Path("a.pt")}), (["4=a.pt"], {4: Path("a.pt")})],
    "classes": [("all", None), ([1, 2], (1, 2))],
    "cfg_scale": [(2, 2.0)],
    "amm": [("auto", "auto"), (3, 3.0)],
    "npz": [(True, True)],
    "output": [("a/b", Path("a/b"))],
}


@pytest.mark.parametrize(("key", "pair"), [(key, pair) for key, pairs in RIGHT.items() for pair in pairs], ids=str)
def test_values_come_back_as_the_type_of_the_field(key: str, pair: tuple[Any, Any]) -> None:
    assert from_json(SAMPLE[key], pair[0]) == pair[1]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(SAMPLE)), JSON)
def test_any_json_value_is_taken_or_refused(key: str, value: Any) -> None:
    with suppress(ConfigError):
        from_json(SAMPLE[key], value)


@given(st.sampled_from(sorted(FINETUNE)), st.text())
def test_any_text_is_taken_or_refused(key: str, text: str) -> None:
    made = FINETUNE[key]
    if not made.is_switch and not made.negatable:
        with suppress(ConfigError):
            parse_text(made, text)


@pytest.mark.parametrize(("word", "near"), [("Dynamik", "dynamic"), ("stat", "static"), ("?", "full")])
def test_a_word_that_is_no_choice_is_answered_with_the_choices_and_the_nearest(
    word: str, near: str, run_cli: RunCli
) -> None:
    result = run_cli("flops", "--schedule", word)
    assert result.code == 2
    assert result.err.splitlines() == [
        f"error: --schedule {word!r}: expected one of full, static, dynamic, timed",
        f"hint: write it like --schedule {near}",
    ]


def test_a_seed_longer_than_the_noises_key_is_refused(run_cli: RunCli) -> None:
    """It would be taken modulo 2^64, so that another seed gave the same images."""
    assert run_cli("sample", "--seed", 2**64, "--classes", "99").code == 2
    assert "--seed must be at most" in run_cli("sample", "--seed", 2**64, "--classes", "99").err
    assert "class 99" in run_cli("sample", "--seed", 2**64 - 1, "--classes", "99").err


@pytest.mark.parametrize("seed", [2**64, 10**30])
def test_a_seed_beyond_64_bits_is_refused_without_twenty_digits_of_a_bound(run_cli: RunCli, seed: int) -> None:
    assert (
        run_cli("sample", "--seed", seed).err.splitlines()[0] == f"error: --seed must be at most 2^64 - 1, got {seed}"
    )
