from __future__ import annotations

import pytest
import torch

from medcli.scores import covariance_factor as factor
from medcli.scores.covariance_factor import Factored, factored
from medcli.scores.moments import Gaussian, Moments


def gaussian(covariance: torch.Tensor, num_rows: int | None = None) -> Gaussian:
    return Gaussian(mean_D=torch.zeros(len(covariance)).double(), covariance_DD=covariance, num_rows=num_rows)


def random_rows(num: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def product(found: Factored) -> torch.Tensor:
    return found.factor_DR @ found.factor_DR.T


def test_a_regular_covariance_is_a_lower_triangle_times_its_transpose() -> None:
    covariance = Moments.of(random_rows(40, 7)).gaussian().covariance_DD
    found = factored(gaussian(covariance))
    assert found.is_lower
    assert torch.equal(found.factor_DR, found.factor_DR.tril())
    torch.testing.assert_close(product(found), covariance, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("num_rows", [5, None])
def test_few_rows_give_a_factor_with_as_many_columns_as_the_rank(num_rows: int | None) -> None:
    covariance = Moments.of(random_rows(5, 30)).gaussian().covariance_DD
    found = factored(gaussian(covariance, num_rows))
    assert found.factor_DR.shape == (30, 4)
    assert not found.is_lower
    torch.testing.assert_close(product(found), covariance, rtol=1e-13, atol=1e-13)


def test_dead_and_doubled_features_lower_the_rank() -> None:
    rows = random_rows(50, 6)
    rows[:, 2] = 0
    rows[:, 5] = rows[:, 1]
    covariance = Moments.of(rows).gaussian().covariance_DD
    found = factored(gaussian(covariance))
    assert found.factor_DR.shape == (6, 4)
    torch.testing.assert_close(product(found), covariance, rtol=1e-13, atol=1e-13)


def test_a_constant_set_has_no_directions() -> None:
    assert factored(gaussian(torch.zeros(3, 3, dtype=torch.float64))).factor_DR.shape == (3, 0)


@pytest.mark.parametrize("block_columns", [1, 3, 256])
@pytest.mark.parametrize("num", [50, 4])
def test_the_congruence_is_the_product_of_three(num: int, block_columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factor, "BLOCK_COLUMNS", block_columns)
    found = factored(Moments.of(random_rows(num, 8)).gaussian())
    other = Moments.of(random_rows(50, 8, seed=1)).gaussian().covariance_DD
    expected = found.factor_DR.T @ other @ found.factor_DR
    torch.testing.assert_close(found.congruence(other).tril(), expected.tril(), rtol=1e-12, atol=1e-12)
