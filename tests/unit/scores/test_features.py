from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medcli.errors import DataError
from medcli.runtime.reporting import Silent
from medcli.scores.extractor import LOGITS, POOL, SPATIAL
from medcli.scores.feature_cache import FeatureCache
from medcli.scores.features import Wanted, extract
from medcli.scores.moments import Moments
from medcli.scores.standard_error import random_blocks
from tests.unit.scores.corners import Corners, images


class Steps(Silent):
    def __init__(self) -> None:
        self.seen: list[tuple[float, int, str]] = []

    def progress(self, done: float, total: int, unit: str, detail: str = "") -> None:
        self.seen.append((done, total, unit))


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_one_pass_gives_rows_in_order_and_statistics_of_all(batch_size: int) -> None:
    wanted = Wanted(gaussians=frozenset({POOL, SPATIAL}), rows=frozenset({LOGITS}))
    found = extract(images(10), Corners(), wanted, batch_size=batch_size, reporter=Silent())
    corners = images(10).images_NYXC[:, 0, 0].float()
    assert torch.equal(found.rows[LOGITS], corners.sum(dim=1, keepdim=True))
    expected = Moments.of(2 * corners).gaussian()
    np.testing.assert_allclose(found.gaussians[SPATIAL].mean_D, expected.mean_D, rtol=1e-12)
    np.testing.assert_allclose(found.gaussians[SPATIAL].covariance_DD, expected.covariance_DD, rtol=1e-12)
    assert found.gaussians[POOL].num_rows == found.num_images == 10


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("has_rows", [False, True])
def test_block_moments_are_those_of_random_rows_wherever_the_rows_are_kept(
    tmp_path: Path, is_cached: bool, has_rows: bool
) -> None:
    cache = FeatureCache(tmp_path, shard_images=7) if is_cached else None
    wanted = Wanted(gaussians=frozenset({POOL}), rows=frozenset({POOL} if has_rows else ()), blocks=True)
    found = extract(images(150), Corners(), wanted, batch_size=16, reporter=Silent(), cache=cache)
    rows = extract(images(150), Corners(), Wanted(rows=frozenset({POOL})), batch_size=16, reporter=Silent()).rows[POOL]
    blocks = random_blocks(150, 100)
    assert len(found.block_moments[POOL]) == 100
    for moments, block in zip(found.block_moments[POOL], blocks, strict=True):
        expected = Moments.of(rows[block])
        assert moments.num_rows == len(block)
        np.testing.assert_allclose(moments.mean_D, expected.mean_D, rtol=1e-12)
        np.testing.assert_allclose(moments.scatter_DD, expected.scatter_DD, rtol=1e-9, atol=1e-9)


def test_what_is_not_wanted_is_not_kept() -> None:
    found = extract(images(4), Corners(), Wanted(rows=frozenset({POOL})), batch_size=4, reporter=Silent())
    assert not found.gaussians
    assert set(found.rows) == {POOL}


def test_progress_counts_images() -> None:
    steps = Steps()
    extract(images(5), Corners(), Wanted(rows=frozenset({POOL})), batch_size=2, reporter=steps)
    assert steps.seen == [(2, 5, "images"), (4, 5, "images"), (5, 5, "images")]


def test_one_image_is_too_few() -> None:
    with pytest.raises(DataError, match="random holds 1 image, scores need at least 2"):
        extract(images(1), Corners(), Wanted(), batch_size=2, reporter=Silent())
