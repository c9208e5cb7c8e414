"""The demo's verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest

from medcli.workflows.demo.report import DemoRow, verdict


def row(variant: str, nfe: float, gmacs: float, fid: float, error: float | None = 0.5) -> DemoRow:
    return DemoRow(
        variant=variant,
        res=8,
        num_images=10,
        mediators=(0,),
        nfe=nfe,
        gmacs_per_image=gmacs,
        saving_percent=0.0,
        images_per_sec=None,
        error=None,
        fid=fid,
        fid_standard_error=error,
        label_agreement_percent=100.0,
        switch_steps_mean=(),
    )


PAPERS = row("dense, 250 steps", 250, 100.0, 5.0)


@pytest.mark.parametrize(
    ("others", "said"),
    [
        (
            [row("dense", 10, 4.0, 5.5), row("4 mediators", 10, 3.0, 6.0)],
            '"4 mediators" makes images as good as the papers\' 250 steps (FID 6.00 ± 0.50 against 5.00 ± 0.50) with '
            "33.3 times fewer multiply-adds, because it makes 10 network calls instead of 250 and mediators save "
            "25.0 % of each",
        ),
        (
            [row("dense", 10, 4.0, 3.0), row("4 mediators", 10, 3.0, 9.0)],
            '"dense" makes better images than the papers\' 250 steps (FID 3.00 ± 0.50 against 5.00 ± 0.50) with 25 '
            "times fewer multiply-adds, because it makes 10 network calls instead of 250",
        ),
        (
            [row("dense", 10, 4.0, 8.0), row("4 mediators", 10, 3.0, 9.0)],
            'full attention in 250 steps is the best here: FID 5.00 ± 0.50 against 8.00 ± 0.50 of "dense", more than '
            "their errors explain",
        ),
    ],
)
def test_the_verdict_is_the_cheapest_that_is_not_worse_with_its_reason(others: list[DemoRow], said: str) -> None:
    assert verdict([PAPERS, *others]) == said


def test_a_variant_is_described_as_soon_as_it_is_measured() -> None:
    assert row("dense", 10, 4.0, 5.5).line() == "dense: FID 5.50 ± 0.50; 4.00 G MACs an image"


def test_the_verdict_ends_in_what_mediators_save_at_the_larger_size() -> None:
    rows = [PAPERS, row("dense", 10, 4.0, 5.0)]
    dense = replace(row("dense, 16 px", 10, 16.0, 0.0), fid=None, res=16)
    mediated = replace(dense, variant="4 mediators, 16 px", mediators=(4,), saving_percent=55.4)
    assert verdict([*rows, dense, mediated]) == verdict(rows) + "; at 16 px 4 mediators save 55 % of the same steps"
    assert dense.line() == "dense, 16 px: 16.00 G MACs an image"
