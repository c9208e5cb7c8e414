from __future__ import annotations

import pytest
import torch

from medcli.metrics.fid import frechet_distance
from medcli.metrics.moments import Gaussian


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
