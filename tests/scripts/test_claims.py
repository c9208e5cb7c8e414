from __future__ import annotations

from pathlib import Path

import pytest

from claims import main
from claims_study import minus, word


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([-1.0, -1.1, -0.9], "confirmed"),
        ([1.0, 1.1, 0.9], "refuted"),
        ([-1.0, 1.1, -0.9], "unclear"),
        ([-1.0, -0.5, -0.1], "unclear"),  # of one sign, but within 4.3 standard errors
        ([0.0, 0.0, 0.0], "unclear"),
        ([-1.0], "unclear"),
    ],
)
def test_a_claim_is_judged_by_its_differences(differences: list[float], expected: str) -> None:
    assert word(differences) == expected


def test_differences_are_of_the_same_seed() -> None:
    assert minus([3.0, 1.0], [1.0, 2.0]) == [2.0, -1.0]
    with pytest.raises(ValueError, match="zip"):
        minus([1.0], [1.0, 2.0])


@pytest.mark.slow
def test_networks_are_trained_sampled_and_kept(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["self", "--bundle", "digits", "--num-images", "20", "--seeds", "2", "--steps", "2", "--drawn", "32"]
    main([*words, "-o", "claims"])
    shown = capsys.readouterr().out
    assert "| its own images |" in shown
    assert "its own images against real ones:" in shown
    stamps = {path: path.stat().st_mtime_ns for path in Path("claims").rglob("*.png")}
    main([*words, "-o", "claims"])
    assert capsys.readouterr().out == shown
    assert stamps == {path: path.stat().st_mtime_ns for path in Path("claims").rglob("*.png")}
