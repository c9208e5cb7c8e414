"""Comparison of scores."""

from __future__ import annotations

import pytest

from medcli.workflows.fid.compare import CompareReport


@pytest.mark.parametrize(("distance", "is_near"), [(1.9, True), (2.1, False)])
def test_a_score_within_two_standard_errors_of_the_best_is_near_it(distance: float, is_near: bool) -> None:
    errors = (0.6, 0.8)  # of their difference: 1
    rows = tuple(
        {"samples": str(place), "fid": fid, "num_samples": 9, "standard_errors": {"fid": error}}
        for place, (fid, error) in enumerate(zip((10.0, 10.0 + distance), errors, strict=True))
    )
    report = CompareReport(rows=rows, differences=())
    assert report.best("fid") == 0
    assert report.is_near_best("fid", 1) is is_near
    assert not report.is_near_best("fid", 0)
