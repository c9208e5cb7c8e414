"""Scores kept in a sample folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medcli.runtime.reporting import Silent
from medcli.workflows.fid.kept import keep_scores, kept_scores


class Notes(Silent):
    """Keeps remarks."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    warn = note


def row(samples: Path, images: str = "a", **values: Any) -> dict[str, Any]:
    hashes = {"samples_sha256": images, "reference_sha256": "r", "extractor_sha256": "e"}
    same = {"samples": str(samples), "reference": "digits", "extractor": "digits", "num_samples": 6}
    parts = {"standard_errors": dict.fromkeys(values, 0.5), "standard_error_methods": {}, "unavailable": {}}
    return {**same, **parts, "protocol": "adm", "protocol_details": {}, "provenance": hashes, **values}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/manifest.json").write_text("{}")
    return tmp_path / "s"


def test_scores_of_the_same_images_are_merged_and_of_other_images_replaced(folder: Path) -> None:
    keep_scores(row(folder, fid=1.0), Silent())
    keep_scores(row(folder / "samples.npz", kid=2.0), Silent())
    (kept,) = kept_scores(folder)
    assert (kept["fid"], kept["kid"], kept["standard_errors"]) == (1.0, 2.0, {"fid": 0.5, "kid": 0.5})
    keep_scores(row(folder, images="b", kid=3.0), Silent())
    (kept,) = kept_scores(folder)
    assert (kept.get("fid"), kept["kid"]) == (None, 3.0)
    keep_scores({**row(folder, fid=4.0), "reference": "other"}, Silent())
    assert len(kept_scores(folder)) == 2


def test_a_folder_of_another_origin_is_left_alone(tmp_path: Path) -> None:
    keep_scores(row(tmp_path, fid=1.0), Silent())
    assert list(tmp_path.iterdir()) == []
    assert kept_scores(tmp_path) == []


@pytest.mark.parametrize(
    "damage",
    ["{", '{"rows": 5}', '{"rows": {}}', '{"rows": []}', "standard_errors", "unavailable", "fid", "num_samples"],
)
def test_a_damaged_file_is_written_anew(folder: Path, damage: str) -> None:
    values = {"standard_errors": 5, "unavailable": [1], "fid": float("nan"), "num_samples": [[]]}
    keep_scores(row(folder, kid=1.0), Silent())
    if damage in values:
        damage = json.dumps({"rows": [row(folder) | {damage: values[damage]}]})
    (folder / "scores.json").write_text(damage)
    keep_scores(row(folder, fid=1.0), Silent())
    assert [one["fid"] for one in kept_scores(folder)] == [1.0]


def test_an_unwritable_file_is_a_remark(folder: Path) -> None:
    (folder / "scores.json").write_text("{")
    keep_scores(row(folder, fid=1.0), Silent())
    assert json.loads((folder / "scores.json").read_text())["rows"][0]["fid"] == 1.0
    (folder / "scores.json").unlink()
    (folder / "scores.json").mkdir()
    notes = Notes()
    keep_scores(row(folder, fid=1.0), notes)
    assert "the scores are not kept beside the samples" in notes.lines[0]
