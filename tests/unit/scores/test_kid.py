from __future__ import annotations

import numpy as np
import pytest
import torch

from medcli.errors import DataError
from medcli.scores import kid
from medcli.scores.kid import kernel_distance


def sets(num: int, num_reference: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(num, 6, generator=generator), torch.randn(num_reference, 6, generator=generator) + 0.5


def brute_force(samples: torch.Tensor, reference: torch.Tensor) -> float:
    def mean_kernel(left: np.ndarray, right: np.ndarray, *, is_same: bool) -> float:
        pairs = [
            (x @ y / len(x) + 1) ** 3
            for i, x in enumerate(left)
            for j, y in enumerate(right)
            if not (is_same and i == j)
        ]
        return float(np.mean(pairs))

    x, y = samples.double().numpy(), reference.double().numpy()
    return mean_kernel(x, x, is_same=True) + mean_kernel(y, y, is_same=True) - 2 * mean_kernel(x, y, is_same=False)


@pytest.mark.parametrize("tile_rows", [1, 4, 2048])
def test_kid_is_the_pairwise_mean_whatever_the_tiles(tile_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kid, "TILE_ROWS", tile_rows)
    samples, reference = sets(7, 9)
    assert kernel_distance(samples, reference).value == pytest.approx(brute_force(samples, reference), rel=1e-12)


def test_kid_needs_two_images_on_each_side() -> None:
    samples, reference = sets(1, 9)
    with pytest.raises(DataError, match="got 1 and 9"):
        kernel_distance(samples, reference)


@pytest.mark.parametrize("tile_rows", [1, 3, 2048])
def test_the_error_is_the_jackknife_less_what_pairs_count_twice(
    tile_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kid, "TILE_ROWS", tile_rows)
    samples, reference = sets(7, 5)
    without = [brute_force(torch.cat([samples[:i], samples[i + 1 :]]), reference) for i in range(7)]
    variance = 6 / 7 * np.square(without - np.mean(without)).sum()
    kernel = ((samples.double() @ samples.double().T / samples.shape[1] + 1) ** 3).numpy()
    np.fill_diagonal(kernel, 0)
    row = kernel.sum(axis=1) / 5
    centred = kernel - row[:, None] - row[None] + kernel.sum() / 30
    np.fill_diagonal(centred, 0)
    second_order = np.square(centred).sum() / (7 * 4) * 2 / (7 * 6)
    expected = np.sqrt(max(variance - second_order, variance / 2))
    assert kernel_distance(samples, reference).standard_error == pytest.approx(expected, rel=1e-9)


def test_the_error_is_the_scatter_of_fresh_samples() -> None:
    reference = torch.randn(300, 6, generator=torch.Generator().manual_seed(1)) * 0.9
    found = [
        kernel_distance(torch.randn(200, 6, generator=torch.Generator().manual_seed(seed)), reference)
        for seed in range(2, 62)
    ]
    scatter = np.std([estimate.value for estimate in found], ddof=1)
    assert np.mean([estimate.standard_error for estimate in found]) == pytest.approx(scatter, rel=0.3)


def test_two_samples_have_no_error() -> None:
    samples, reference = sets(2, 9)
    assert kernel_distance(samples, reference).standard_error is None


def test_features_beyond_the_range_of_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="features are too large for KID"):
        kernel_distance(torch.full((5, 2), 1e30), torch.ones(5, 2))
