from __future__ import annotations

import pytest
import torch

from medcli.scores.standard_error import (
    Estimate,
    error_of_difference,
    jackknife,
    num_blocks,
    permutation,
    random_blocks,
)


def test_blocks_of_unequal_size_are_weighted() -> None:
    """Of a mean, leaving out blocks gives the weighted scatter of block means: a closed form for any sizes."""
    values = torch.randn(50, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    sizes = [5, 10, 15, 20]
    blocks = torch.split(values, sizes)
    without = [float((values.sum() - block.sum()) / (50 - len(block))) for block in blocks]
    deviations = [
        (float(block.mean()) - float(values.mean())) ** 2 * len(block) / (50 - len(block)) for block in blocks
    ]
    expected = (sum(deviations) / 4) ** 0.5
    assert float(jackknife(float(values.mean()), sizes, without).norm()) == pytest.approx(expected, rel=1e-9)


def test_the_jackknife_of_a_mean_gives_each_rows_deviation() -> None:
    values = torch.arange(6, dtype=torch.float64) ** 2
    without = [float((values.sum() - value) / 5) for value in values]
    found = jackknife(float(values.mean()), [1] * 6, without)
    torch.testing.assert_close(found, (values - values.mean()) / (6 * 5) ** 0.5)


@pytest.mark.parametrize(("num_rows", "num"), [(100, 20), (103, 20), (7, 20), (1, 20)])
def test_blocks_are_a_random_partition_whose_sizes_differ_by_one_at_most(num_rows: int, num: int) -> None:
    blocks = random_blocks(num_rows, num)
    assert sorted(torch.cat(blocks).tolist()) == list(range(num_rows))
    assert len(blocks) == min(num, num_rows)
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1
    assert all(block.tolist() == sorted(block.tolist()) for block in blocks)


def test_blocks_hold_sorted_and_alternating_classes_alike() -> None:
    for label in (torch.arange(1000) // 100, torch.arange(1000) % 10):
        shares = torch.stack([torch.bincount(label[block], minlength=10) for block in random_blocks(1000, 20)])
        assert shares.max() < 15  # of 50 rows; contiguous or strided blocks would hold 50 of one class


def test_narrow_features_take_more_blocks() -> None:
    assert (num_blocks(64), num_blocks(256), num_blocks(257), num_blocks(2048)) == (100, 100, 20, 20)


def test_a_permutation_is_a_function_of_seed_and_place() -> None:
    first = permutation(50, 0, 1)
    assert first.tolist() == permutation(50, 0, 1).tolist()
    assert sorted(first.tolist()) == list(range(50))
    assert first.tolist() != permutation(50, 0, 2).tolist()
    assert first.tolist() != permutation(50, 1, 1).tolist()


def test_errors_of_paired_sets_cancel_and_those_of_others_add() -> None:
    left, right = (Estimate.of(1.0, torch.tensor(parts, dtype=torch.float64), "") for parts in ([3.0, 4.0], [3.0, 4.5]))
    assert left.standard_error == 5
    assert error_of_difference(left, right, is_paired=True) == pytest.approx(0.5)
    assert error_of_difference(left, right, is_paired=False) == pytest.approx((25 + 29.25) ** 0.5)
    shorter = Estimate.of(1.0, torch.tensor([2.0], dtype=torch.float64), "")
    assert error_of_difference(left, shorter, is_paired=True) == pytest.approx(29**0.5)
    assert error_of_difference(left, Estimate(value=1.0), is_paired=True) is None
