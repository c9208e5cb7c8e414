from __future__ import annotations

import pytest
import torch

from medcli.scores import fid
from medcli.scores.covariance_factor import factored
from medcli.scores.fid import frechet_distance
from medcli.scores.moments import Gaussian, Moments


def diagonal(mean: list[float], variances: list[float]) -> Gaussian:
    return Gaussian(
        mean_D=torch.tensor(mean, dtype=torch.float64),
        covariance_DD=torch.diag(torch.tensor(variances, dtype=torch.float64)),
        num_rows=None,
    )


def test_diagonal_gaussians_have_the_closed_form_distance() -> None:
    first, second = diagonal([0, 1, 2], [4, 9, 1]), diagonal([1, 1, 0], [1, 16, 0.25])
    # |m1 - m2|^2 + sum (s1 - s2)^2 over standard deviations
    assert frechet_distance(first, second) == pytest.approx(5 + 1 + 1 + 0.25, rel=1e-14)


def test_directions_without_variance_add_only_the_other_side() -> None:
    assert frechet_distance(diagonal([0, 0], [4, 0]), diagonal([0, 0], [0, 9])) == pytest.approx(13, rel=1e-14)


def test_equal_gaussians_are_at_distance_zero_exactly() -> None:
    root = torch.randn(30, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    same = Gaussian(mean_D=root[0], covariance_DD=root @ root.T, num_rows=None)
    assert frechet_distance(same, same) == 0


def regular(seed: int, dim: int = 12, num: int = 60) -> Gaussian:
    rows = torch.randn(num, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Moments.of(rows * torch.linspace(1, 0.01, dim)).gaussian()


def test_the_quick_way_by_eigenvalues_gives_what_singular_values_give(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = frechet_distance(regular(0), regular(1))
    monkeypatch.setattr(fid, "EIGENVALUE_ACCURACY", -1)
    assert frechet_distance(regular(0), regular(1)) == pytest.approx(quick, rel=1e-11)


def test_regular_covariances_take_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.linalg, "svdvals", lambda *_: pytest.fail("not the quick way"))
    frechet_distance(regular(0), regular(1))


def test_a_product_with_lost_eigenvalues_takes_the_exact_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Orthogonal supports: the eigenvalues of the product are rounding, and their roots would be errors of 1e-8."""
    taken: list[int] = []
    svdvals = torch.linalg.svdvals
    monkeypatch.setattr(torch.linalg, "svdvals", lambda matrix: taken.append(1) or svdvals(matrix))
    first, second = diagonal([0] * 4, [1, 1, 0, 0]), diagonal([0] * 4, [0, 0, 1, 1])
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    turned = [
        Gaussian(mean_D=each.mean_D, covariance_DD=turn.T @ each.covariance_DD @ turn, num_rows=None)
        for each in (first, second)
    ]
    assert frechet_distance(*turned) == pytest.approx(4, abs=1e-12)
    assert taken


def test_a_reference_factored_once_gives_the_same_distance() -> None:
    assert frechet_distance(regular(0), factored(regular(1))) == frechet_distance(regular(0), regular(1))


@pytest.mark.parametrize("num", [3, 7, 12, 13])
def test_few_rows_give_the_distance_of_their_span(num: int) -> None:
    """From the centred rows themselves, which need no covariance and no rank."""
    rows = torch.randn(num, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    few, other = Moments.of(rows).gaussian(), regular(3)
    root = (rows - few.mean_D) @ torch.linalg.cholesky(other.covariance_DD)
    inner = torch.linalg.svdvals(root).sum() / (num - 1) ** 0.5
    step = few.mean_D - other.mean_D
    expected = float(step @ step + few.covariance_DD.trace() + other.covariance_DD.trace() - 2 * inner)
    assert frechet_distance(few, other) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(other, few) == pytest.approx(expected, rel=1e-9)
