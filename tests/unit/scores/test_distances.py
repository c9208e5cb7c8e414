from __future__ import annotations

import pytest
import torch

from medcli.scores.distances import Tiles, exact_distances, frame_of
from medcli.scores.extractor import CPU

DIM = 64


def rows(num: int, *, offset: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num)
    return offset + scale * torch.randn(num, DIM, dtype=torch.float64, generator=generator)


def all_pairs(left_ND: torch.Tensor, right_MD: torch.Tensor) -> torch.Tensor:
    return (left_ND[:, None] - right_MD[None]).square().sum(dim=2)


@pytest.mark.parametrize(("offset", "scale"), [(0.0, 1.0), (1000.0, 1.0), (0.0, 1e-30), (0.0, 1e18), (-7.0, 1e-3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_true_distance_lies_within_the_bounds(offset: float, scale: float, dtype: torch.dtype) -> None:
    left_ND, right_MD = rows(30, offset=offset, scale=scale), rows(20, offset=offset, scale=scale)
    right_MD[3] = left_ND[5]  # at no distance
    right_MD[4] = left_ND[6] + 1e-4 * scale  # at hardly any
    tiles = Tiles(frame_of(right_MD, left_ND), 40, 25, CPU, dtype)
    tiles.hold(left_ND)
    tiles.measure(right_MD)
    true_NM = all_pairs(left_ND, right_MD) * tiles.unit
    assert bool((tiles.low().double() <= true_NM).all())
    assert bool((true_NM <= tiles.high().double()).all())
    width_NM = tiles.high().double() - tiles.low().double()
    assert float((width_NM / true_NM.mean()).max()) < 2 * DIM * torch.finfo(dtype).eps


def test_a_smaller_tile_after_a_larger_one_is_its_own() -> None:
    left_ND, right_MD = rows(30), rows(20)
    tiles = Tiles(frame_of(right_MD, left_ND), 30, 20, CPU, torch.float64)
    tiles.hold(left_ND)
    tiles.measure(right_MD)
    tiles.hold(left_ND[10:13])
    tiles.measure(right_MD[5:9])
    torch.testing.assert_close(tiles.high(), all_pairs(left_ND[10:13], right_MD[5:9]) * tiles.unit)


def test_equal_rows_are_at_no_distance_and_equal_pairs_at_equal_ones() -> None:
    left_ND = rows(300)
    left_ND[7] = left_ND[3]
    pair_P, other_P = torch.arange(300), torch.arange(300).flip(0)
    found_P = exact_distances(left_ND, left_ND, pair_P, other_P)
    torch.testing.assert_close(found_P, (left_ND - left_ND.flip(0)).square().sum(dim=1))
    assert torch.equal(found_P, found_P.flip(0))
    assert float(exact_distances(left_ND, left_ND, torch.tensor([7]), torch.tensor([3]))) == 0


def test_sets_of_equal_rows_have_a_frame() -> None:
    zeros_ND = torch.zeros(5, DIM)
    tiles = Tiles(frame_of(zeros_ND), 5, 5, CPU)
    tiles.hold(zeros_ND)
    tiles.measure(zeros_ND)
    assert float(tiles.low().abs().max()) == 0
