"""The comparison of dynamic and static schedules at equal cost, through its own command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medcli.errors import ConfigError
from schedule_comparison import interpolated, main, variants_of
from tests.unit.engine.tiny import PIXELS, save, with_ladder

SAMPLING = {"sampler": "sde", "steps": 6, "cfg_scale": 1.0}
WORDS = ("m.safetensors", "--num-images", "10", "--seeds", "2", "-o", "out")
RESULT = Path("out/comparison.json")


@pytest.mark.slow
def test_every_schedule_is_scored_for_every_seed_and_dynamic_ones_are_set_beside_static(
    capsys, empty_folder, monkeypatch
):
    monkeypatch.setattr("schedule_comparison.SCALES", (0.95,))  # one of three: seconds saved
    save(empty_folder / "m.safetensors", with_ladder(PIXELS, 1, 4), sampling=SAMPLING, reference="digits")
    main(WORDS)
    assert "| less static |" in capsys.readouterr().out
    found = json.loads(RESULT.read_text())
    rows = {row["variant"]: row for row in found["rows"]}
    assert [row["schedule"] for row in found["rows"]] == ["full", "static", "static", *["dynamic"] * 2]
    assert all(len(row["fid_by_seed"]) == 2 and row["fid"] > 0 for row in rows.values())
    assert rows["static 1"]["gmacs"] < rows["static 4"]["gmacs"] < rows["dense"]["gmacs"]
    assert (empty_folder / "out/comparison.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")

    row = next(row for row in found["rows"] if row["schedule"] == "dynamic")
    low, high = rows["static 1"], rows["static 4"]
    for seed in range(2):
        place = (row["gmacs_by_seed"][seed] - low["gmacs"]) / (high["gmacs"] - low["gmacs"])
        line = low["fid_by_seed"][seed] * (1 - place) + high["fid_by_seed"][seed] * place
        assert row["against_static_by_seed"][seed] == pytest.approx(row["fid_by_seed"][seed] - line)
    deviation = abs(row["fid_by_seed"][0] - row["fid_by_seed"][1]) / 2
    assert row["fid_standard_error"] == pytest.approx(deviation)

    stamps = {file: file.stat().st_mtime_ns for file in empty_folder.glob("out/seed-*/*/0*.png")}
    assert len(stamps) == 2 * 5 * 10
    main(WORDS)
    assert json.loads(RESULT.read_text()) == found
    assert stamps == {file: file.stat().st_mtime_ns for file in stamps}

    main(["11" if word == "10" else word for word in WORDS])
    assert json.loads(RESULT.read_text())["rows"][0]["fid"] != rows["dense"]["fid"]
    main(WORDS)
    assert json.loads(RESULT.read_text()) == found  # the first ten of eleven


def test_thresholds_of_l2_are_the_squares_of_those_of_l1():
    dynamic = [variant for variant in variants_of((1, 4, 16)) if variant.kind == "dynamic"]
    of = {name: [variant.rho for variant in dynamic if variant.distance == name] for name in ("l1", "l2")}
    assert of["l2"] == [pytest.approx(tuple(value**2 for value in rho), abs=1e-4) for rho in of["l1"]]
    assert all(sorted(rho, reverse=True) == list(rho) for rho in of["l1"])


def test_a_line_is_read_between_its_corners_and_held_beyond_them():
    line = [(1.0, 10.0), (2.0, 20.0), (4.0, 0.0)]
    assert [interpolated(line, place) for place in (0, 1, 1.5, 2, 3, 4, 9)] == [10, 10, 15, 20, 10, 0, 0]


def test_a_checkpoint_without_a_ladder_has_nothing_to_compare():
    with pytest.raises(ConfigError, match="at least two mediator counts, this checkpoint holds 4"):
        variants_of((4,))


@pytest.mark.parametrize(("words", "said"), [(("--num-images", "5"), "at least 10"), (("--seeds", "1"), "--seeds")])
def test_too_few_images_or_seeds_are_refused_before_anything_is_written(words, said, empty_folder):
    with pytest.raises(ConfigError, match=said):
        main(words)
    assert list(empty_folder.iterdir()) == []
