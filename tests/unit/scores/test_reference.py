from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcli.data.bundled_set import bundled_pixels
from medcli.errors import DataError
from medcli.scores.classifier import ClassifierExtractor, SmallClassifier
from medcli.scores.extractor import POOL, SPATIAL
from medcli.scores.reference import bundled_info, covariance_problem, has_statistics, load_bundled, read_statistics
from medcli.scores.registry import load_extractor

DIMS = {POOL: 3, SPATIAL: 2}


def saved(folder: Path, **arrays: Any) -> Path:
    path = folder / "reference.npz"
    np.savez(path, **arrays)
    return path


def test_statistics_are_read_in_float64(tmp_path: Path) -> None:
    path = saved(tmp_path, mu=np.ones(3, np.float32), sigma=np.eye(3), mu_s=np.zeros(2), sigma_s=np.eye(2))
    found = read_statistics(path, DIMS)
    assert found[POOL].mean_D.tolist() == [1, 1, 1]
    assert found[SPATIAL].covariance_DD.tolist() == [[1, 0], [0, 1]]
    assert found[POOL].num_rows is None
    assert str(found[POOL].mean_D.dtype) == "torch.float64"


def test_statistics_of_layers_the_extractor_lacks_are_left_alone(tmp_path: Path) -> None:
    path = saved(tmp_path, mu=np.ones(3), sigma=np.eye(3), mu_s=np.zeros(9), sigma_s=np.eye(9))
    assert set(read_statistics(path, {POOL: 3})) == {POOL}


def test_only_an_npz_with_a_mean_holds_statistics(tmp_path: Path) -> None:
    assert has_statistics(saved(tmp_path, mu=np.ones(3), sigma=np.eye(3)))
    assert not has_statistics(saved(tmp_path, arr_0=np.ones(3)))
    assert not has_statistics(tmp_path)
    assert not has_statistics(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.ones(4), "sigma": np.eye(4)}, r"mu \(4,\) and sigma \(4, 4\) do not fit the extractor's 3 pool"),
        ({"mu": np.ones(3), "sigma": np.eye(2)}, r"sigma \(2, 2\)"),
        ({"mu": np.ones(3)}, "holds mu but no sigma"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "mu is not made of finite numbers"),
        ({"mu": np.ones(3), "sigma": 1e300 * np.eye(3)}, "sigma is not made of finite numbers up to 1e\\+50"),
        ({"mu": np.ones(3, np.int64), "sigma": np.eye(3)}, "mu is int64, expected floating point"),
        ({"mu": np.ones(3), "sigma": np.eye(3) * 1j}, "sigma is complex128"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_statistics(saved(tmp_path, **arrays), DIMS)


def covariance_of(values: Sequence[float], seed: int = 0) -> np.ndarray:
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))
    return basis @ np.diag(values) @ basis.T


@pytest.mark.parametrize("dim", [1, 2, 64, 300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_covariances_of_any_rank_pass(dim: int, dtype: Any) -> None:
    draw = np.random.default_rng(dim)
    scales = 10 ** draw.uniform(-4, 1, dim)
    for num_rows in (2, dim // 2 + 2, 3 * dim + 2):
        rows = (draw.normal(size=(num_rows, dim)) * scales + 100).astype(dtype)
        sums = np.atleast_2d(np.cov(rows, rowvar=False, dtype=dtype)).astype(np.float64)
        assert covariance_problem(sums) is None
    assert covariance_problem(np.zeros((dim, dim))) is None


@given(st.integers(2, 40), st.integers(0, 10**6), st.floats(1e-12, 1e12))
def test_matrices_that_are_no_covariance_are_told(dim: int, seed: int, scale: float) -> None:
    draw = np.random.default_rng(seed)
    values = draw.uniform(0.5, 1, dim)
    whole = covariance_of(values, seed) * scale
    assert covariance_problem(whole) is None
    assert "variance of feature" in str(covariance_problem(-whole))
    values[draw.integers(dim)] *= -0.01
    negative = covariance_of(values, seed) * scale
    assert re.search(
        "smallest eigenvalue is -|variance of feature", str(covariance_problem((negative + negative.T) / 2))
    )
    assert covariance_problem(np.triu(whole + scale)) is not None
    assert covariance_problem(draw.normal(size=(dim, dim)) * scale) is not None
    assert covariance_problem(np.full((dim, dim), scale) - scale * np.eye(dim)) is not None


def test_a_file_whose_sigma_is_no_covariance_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, mu=np.ones(3), sigma=np.diag([1.0, 1.0, -1.0]))
    with pytest.raises(DataError, match="sigma is not a covariance: the variance of feature 2 is -1"):
        read_statistics(path, DIMS)


def test_statistics_are_recognised_by_content(tmp_path: Path) -> None:
    for name in ("STATS.NPZ", "stats"):
        saved(tmp_path, mu=np.ones(3), sigma=np.eye(3)).rename(tmp_path / name)
        assert has_statistics(tmp_path / name)


def test_the_bundled_reference_holds_the_features_of_all_digits() -> None:
    extractor = load_extractor("digits")
    reference = load_bundled("digits", extractor)
    assert (
        bundled_info("digits").num_images
        == reference.num_images
        == len(reference.rows[POOL])
        == len(bundled_pixels("digits"))
    )
    rows = reference.rows[POOL].double().numpy()
    np.testing.assert_allclose(reference.gaussians[POOL].mean_D, rows.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(reference.gaussians[POOL].covariance_DD, np.cov(rows.T), rtol=1e-7, atol=1e-9)


def test_the_bundled_reference_refuses_other_weights() -> None:
    with pytest.raises(DataError, match="not with these weights"):
        load_bundled("digits", ClassifierExtractor("digits", SmallClassifier(1, 10, 0), "another hash"))
