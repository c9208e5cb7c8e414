from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medcli.data.digits import digit_pixels
from medcli.errors import DataError
from medcli.scores.digits_extractor import DigitClassifier, DigitsExtractor, load_digits_extractor
from medcli.scores.extractor import POOL, SPATIAL
from medcli.scores.reference import bundled_info, has_statistics, load_bundled, read_statistics

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
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "not made of finite numbers"),
        ({"mu": np.ones(3, np.int64), "sigma": np.eye(3)}, "not made of finite numbers"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_statistics(saved(tmp_path, **arrays), DIMS)


def test_the_bundled_reference_holds_the_features_of_all_digits() -> None:
    extractor = load_digits_extractor()
    reference = load_bundled("digits", extractor)
    assert bundled_info("digits").num_images == reference.num_images == len(reference.rows[POOL]) == len(digit_pixels())
    rows = reference.rows[POOL].double().numpy()
    np.testing.assert_allclose(reference.gaussians[POOL].mean_D, rows.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(reference.gaussians[POOL].covariance_DD, np.cov(rows.T), rtol=1e-7, atol=1e-9)


def test_the_bundled_reference_refuses_other_weights() -> None:
    with pytest.raises(DataError, match="not with these weights"):
        load_bundled("digits", DigitsExtractor(DigitClassifier(), "another hash"))
