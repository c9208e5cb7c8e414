"""The comparison with the papers' code: the same images and losses on both sides; no test looks at how fast it is."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from bench_papers import agreement, drawn_in_advance, main
from medcli.engine.plan import FinishedImage, philox_noise
from tests.unit.engine.tiny import LADDER, save

SHORT = ("--repeats", "1", "--batch-size", "3", "--threads", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("bench") / "tiny.safetensors")


def found(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    main([str(word) for word in (*words, *SHORT)])
    return json.loads(capsys.readouterr().out)


def test_the_engine_and_the_papers_loop_make_the_same_images(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = found(capsys, file)
    agreed = made["agreement"]
    assert (agreed["num_images"], agreed["same_moves"]) == (2, True)
    assert agreed["max_relative_difference"] <= 1e-6
    loops = {row["variant"]: row for row in made["rows"] if row["group"] == "loop"}
    assert list(loops) == ["dense", "plan", "papers"]
    assert (sum(loops["plan"]["calls"]), sum(loops["papers"]["calls"])) == (5, 10)
    assert loops["papers"]["gmacs_done"] == loops["papers"]["gmacs"]
    assert loops["papers"]["speedup_over_papers"] == 1
    rate = {name: row["images_per_sec"] for name, row in loops.items()}
    assert loops["dense"]["speedup_over_papers"] == pytest.approx(rate["dense"] / rate["papers"])
    papers = [row["mediators"] for row in made["rows"] if (row["group"], row["variant"]) == ("forward", "papers")]
    assert papers == [[], *([count] for count in LADDER)]


def test_the_papers_code_stays_float32_whatever_ours_computes_in(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = found(capsys, file, "--dtype", "bf16")
    assert {(row["dtype"], row["variant"] == "papers") for row in made["rows"]} == {("bf16", False), ("fp32", True)}
    assert 1e-6 < made["agreement"]["max_relative_difference"] < 0.1


def test_training_steps_of_both_loops_agree(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = found(capsys, file, "--train")
    # The same losses after some steps from the same weights: what is timed does the same work.
    assert all(agreed["max_relative_difference"] < 1e-4 for agreed in made["agreements"])
    assert [agreed["num_mediators"] for agreed in made["agreements"]] == [0, *LADDER]
    assert [row["variant"] for row in made["rows"]] == ["medcli", "papers"] * 4


def finished(index: int, value: float, moves: tuple[int, ...] = ()) -> FinishedImage:
    return FinishedImage(index, 0, torch.tensor([[[value, 1.0]]]), switch_steps=moves, calls=(1,))


def test_agreement_is_the_largest_difference_relative_to_the_largest_element() -> None:
    engine = [finished(1, 4.0, (2,)), finished(0, 2.0), finished(2, 9.0)]
    agreed = agreement(engine, [finished(0, 2.0), finished(1, 5.0, (2,))])
    assert agreed == {"num_images": 2, "max_relative_difference": pytest.approx(0.2), "same_moves": True}
    assert not agreement(engine, [finished(1, 4.0, (3,))])["same_moves"]
    assert agreement(engine, [finished(0, math.nan)])["max_relative_difference"] == math.inf


def test_noise_drawn_in_advance_is_the_same_noise() -> None:
    noise = philox_noise(5, (1, 4, 4))
    recorded = drawn_in_advance(noise, [2, 0], 3, torch.device("cpu"))
    for index in (2, 0):
        for draw in range(3):
            numbers = torch.tensor([index]), torch.tensor([draw])
            assert torch.equal(recorded(*numbers), noise(*numbers))
