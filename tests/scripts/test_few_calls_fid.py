from pathlib import Path

import pytest

from few_calls_fid import PLANS, compare


@pytest.mark.slow
def test_plans_are_compared_seed_by_seed_and_found_again(tmp_path: Path) -> None:
    names, seeds = list(PLANS)[1:3], (0, 1)
    rows = compare(tmp_path, names, 10, seeds)
    assert [row["plan"] for row in rows] == names
    assert (rows[0]["difference"], rows[0]["error"]) == (0, 0)
    assert rows[1]["difference"] == pytest.approx(rows[1]["fid"] - rows[0]["fid"])
    assert 0 < rows[1]["error"] < rows[0]["fid"]
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert len(list(tmp_path.iterdir())) == 4
    assert compare(tmp_path, names, 10, seeds) == rows
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
