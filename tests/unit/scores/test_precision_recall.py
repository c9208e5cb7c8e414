from __future__ import annotations

import numpy as np
import pytest
import torch

from medcli.errors import DataError
from medcli.scores import precision_recall as module
from medcli.scores.precision_recall import precision_recall, radii


def sets(num: int, num_reference: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(num, 3, generator=generator), torch.randn(num_reference, 3, generator=generator) + 0.8


def brute_force(samples: torch.Tensor, reference: torch.Tensor, k: int) -> tuple[int, int]:
    def distances(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return (left.double()[:, None] - right.double()[None]).square().sum(dim=2)

    def covered(points: torch.Tensor, centres: torch.Tensor) -> int:
        ball = distances(centres, centres).sort(dim=1).values[:, k]
        return int((distances(points, centres) <= ball).any(dim=1).sum())

    return covered(samples, reference), covered(reference, samples)


@pytest.mark.parametrize("tile_rows", [4, 16, 1024])
@pytest.mark.parametrize("k", [1, 3])
def test_counts_are_those_of_all_pairs_whatever_the_tiles(
    tile_rows: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TILE_ROWS", tile_rows)
    monkeypatch.setattr(module, "TILE_COLUMNS", max(2, tile_rows // 2))
    samples, reference = sets(50, 40)
    counts = precision_recall(samples, reference, k=k)
    assert (counts.num_samples_inside, counts.num_references_inside) == brute_force(samples, reference, k)


def test_radius_is_the_squared_distance_to_the_third_other_point() -> None:
    rows = torch.tensor([[0.0], [1.0], [3.0], [7.0], [7.0]])
    assert radii(rows).tolist() == [49, 36, 16, 36, 36]


@pytest.mark.parametrize(("place", "precision"), [(6.0, 1), (np.nextafter(6.0, 7.0), 0)])
def test_the_last_bit_decides_whether_a_point_is_inside(place: float, precision: float) -> None:
    reference = torch.tensor([[0.0], [1.0], [2.0], [3.0]], dtype=torch.float64)  # the ball around 3 reaches to 6
    samples = torch.full((4, 1), place, dtype=torch.float64)
    assert precision_recall(samples, reference).precision == precision


def test_samples_equal_to_the_reference_lie_inside() -> None:
    samples, _ = sets(30, 4)
    counts = precision_recall(samples, samples.flip(0))
    assert (counts.precision, counts.recall) == (1, 1)


def test_sets_without_a_third_neighbour_are_refused() -> None:
    samples, reference = sets(3, 9)
    with pytest.raises(DataError, match="more than k = 3 images on each side, got 3 and 9"):
        precision_recall(samples, reference)


def test_neighbours_are_named_in_the_order_of_their_exact_distances() -> None:
    """Distances that float32 products can't tell apart: the order of candidates is not that of distances."""
    angle = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 * torch.pi
    size = 1 + 1e-7 * torch.rand(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows_ND = torch.cat([torch.zeros(1, 2), torch.stack([size * angle.cos(), size * angle.sin()], 1)]).double()
    tiles = module.Tiles(module.frame_of(rows_ND), len(rows_ND), len(rows_ND), torch.device("cpu"))
    distance_NS, place_NS, _ = module._nearest(rows_ND, torch.tensor([0]), tiles, 3)
    exact_S = rows_ND[place_NS[0]].square().sum(dim=1)
    torch.testing.assert_close(distance_NS[0], exact_S, rtol=1e-14, atol=0)
