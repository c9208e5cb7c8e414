from __future__ import annotations

import numpy as np
import pytest
import torch

from medcli.errors import DataError
from medcli.scores.moments import Moments


def rows(num: int, dim: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed)) * 3 + 7


def test_moments_are_mean_and_unbiased_covariance_in_float64() -> None:
    sample = rows(40)
    gaussian = Moments.of(sample).gaussian()
    assert gaussian.mean_D.dtype == gaussian.covariance_DD.dtype == torch.float64
    np.testing.assert_allclose(gaussian.mean_D, sample.double().mean(dim=0), rtol=1e-14)
    np.testing.assert_allclose(gaussian.covariance_DD, np.cov(sample.double().numpy().T), rtol=1e-12)
    assert gaussian.num_rows == 40


@pytest.mark.parametrize("cuts", [(1, 39), (20, 20), (3, 30, 7)])
def test_merged_moments_are_those_of_the_union(cuts: tuple[int, ...]) -> None:
    sample, merged = rows(40), Moments.empty(5)
    for shard in torch.split(sample, list(cuts)):
        merged = merged.merge(Moments.of(shard))
    whole = Moments.of(sample)
    np.testing.assert_allclose(merged.mean_D, whole.mean_D, rtol=1e-14)
    np.testing.assert_allclose(merged.scatter_DD, whole.scatter_DD, rtol=1e-12)


def test_merging_with_nothing_changes_nothing() -> None:
    moments = Moments.of(rows(4))
    assert moments.merge(Moments.empty(5)) is moments
    assert Moments.empty(5).merge(moments) is moments


def test_sets_of_other_width_do_not_merge() -> None:
    with pytest.raises(DataError, match="5 features an image, the reference has 6"):
        Moments.of(rows(4)).merge(Moments.of(rows(4, dim=6)))


def test_a_row_that_is_not_finite_is_named() -> None:
    sample = rows(9)
    sample[6, 2] = torch.inf
    with pytest.raises(DataError, match="row 6 "):
        Moments.of(sample)
