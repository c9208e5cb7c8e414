from __future__ import annotations

import pytest
import torch

from medcli.scores import precision_recall as module
from medcli.scores.precision_recall import precision_recall, radii
from medcli.scores.recall_error import FIRST_PLACE, NUM_HALVES
from medcli.scores.standard_error import permutation


def rows(num: int, seed: int, dim: int = 3) -> torch.Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("num", "num_reference"), [(24, 50), (25, 50), (8, 30)])
@pytest.mark.parametrize("tile", [7, 1024])
def test_the_error_is_the_spread_of_the_recall_of_halves(
    num: int, num_reference: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TILE_ROWS", tile)
    monkeypatch.setattr(module, "TILE_COLUMNS", tile)
    monkeypatch.setattr(module, "NUM_SPARE", num)  # all neighbours, so that no ball is too small
    samples, reference = rows(num, 0), rows(num_reference, 1)
    recalls = []
    for half in range(NUM_HALVES):
        part = samples[permutation(num, 0, FIRST_PLACE + half)[: num // 2]]
        balls = radii(part)
        distances = torch.cdist(part.double(), reference.double()).square()
        recalls.append(float((distances <= balls[:, None]).any(dim=0).double().mean()))
    size = num // 2
    expected = torch.tensor(recalls).std() * (size / (num - size)) ** 0.5
    found = precision_recall(samples, reference).recall_deviations_G
    assert found is not None
    assert float(found.norm()) == pytest.approx(float(expected), rel=1e-4)


def test_fewer_than_eight_samples_have_no_error() -> None:
    assert precision_recall(rows(7, 0), rows(30, 1)).recall_deviations_G is None


def test_equal_samples_cover_a_reference_or_do_not_in_every_half() -> None:
    same = torch.zeros(20, 3)
    found = precision_recall(same, torch.cat([same[:5], rows(5, 1)])).recall_deviations_G
    assert found is not None
    assert float(found.norm()) == 0


def test_the_error_does_not_depend_on_the_number_of_reference_images_alone() -> None:
    """Independent answers of 20,000 reference images would have an error of 0.003; 40 samples scatter ten times so."""
    reference = rows(2000, 5).repeat(10, 1) + 1e-3 * rows(20_000, 6)
    found = precision_recall(rows(40, 0), reference).recall_deviations_G
    assert found is not None
    assert 0.015 < float(found.norm()) < 0.1
