from __future__ import annotations

import pytest
import torch

from medcli.scores.covariance_factor import factored
from medcli.scores.fid import frechet_distance
from medcli.scores.jackknife import blocks_of, frechet_error, standard_error
from medcli.scores.moments import Gaussian, Moments


def rows(num: int, dim: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(num, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(rows_ND: torch.Tensor) -> Gaussian:
    return Moments.of(rows_ND).gaussian()


def found_error(samples: torch.Tensor, reference: Gaussian) -> float | None:
    blocks = (Moments.of(block) for block in blocks_of(samples))
    return frechet_error(gaussian(samples), blocks, factored(reference))


def brute_force(samples: torch.Tensor, reference: Gaussian) -> float:
    """The textbook formula for equal blocks, every subset scored from its rows."""
    blocks = torch.arange(len(samples)).tensor_split(20)
    without = []
    for block in blocks:
        keep = torch.ones(len(samples), dtype=torch.bool)
        keep[block] = False
        without.append(frechet_distance(gaussian(samples[keep]), reference))
    values = torch.tensor(without, dtype=torch.float64)
    return float((19 / 20 * (values - values.mean()).square().sum()).sqrt())


@pytest.mark.parametrize(
    ("num", "dim", "num_reference"),
    [
        (400, 8, 500),  # everything regular
        (400, 30, 20),  # the reference has less rank than features
        (40, 60, 100),  # the samples do: solved in their span
        (40, 60, 30),  # both do
        (60, 60, 200),  # as many samples as features
    ],
)
def test_the_error_is_that_of_scoring_every_subset_from_its_rows(num: int, dim: int, num_reference: int) -> None:
    samples, reference = rows(num, dim, 0), gaussian(rows(num_reference, dim, 1, 1.3) + 0.2)
    assert found_error(samples, reference) == pytest.approx(brute_force(samples, reference), rel=1e-10)


def test_the_error_is_the_scatter_of_fresh_samples() -> None:
    reference = gaussian(rows(5000, 4, 99, 1.1))
    sets = [rows(500, 4, seed) for seed in range(60)]
    scatter = torch.tensor([frechet_distance(gaussian(samples), reference) for samples in sets]).std()
    mean_error = sum(found_error(samples, reference) for samples in sets[:10]) / 10
    assert mean_error == pytest.approx(float(scatter), rel=0.25)


def test_blocks_of_unequal_size_are_weighted() -> None:
    """Of a mean, leaving out blocks gives the weighted scatter of block means: a closed form for any sizes."""
    values = rows(50, 1, 3)[:, 0]
    sizes = [5, 10, 15, 20]
    blocks = torch.split(values, sizes)
    without = [float((values.sum() - block.sum()) / (50 - len(block))) for block in blocks]
    deviations = [
        (float(block.mean()) - float(values.mean())) ** 2 * len(block) / (50 - len(block)) for block in blocks
    ]
    expected = (sum(deviations) / 4) ** 0.5
    assert standard_error(float(values.mean()), sizes, without) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("num", "has_error"), [(2, False), (3, True), (7, True)])
def test_two_samples_must_remain(num: int, has_error: bool) -> None:
    assert (found_error(rows(num, 3, 0), gaussian(rows(9, 3, 1))) is not None) == has_error


def test_statistics_of_an_unknown_number_have_no_error() -> None:
    known = gaussian(rows(40, 3, 0))
    unknown = Gaussian(mean_D=known.mean_D, covariance_DD=known.covariance_DD, num_rows=None)
    assert frechet_error(unknown, (), factored(gaussian(rows(9, 3, 1)))) is None


def test_progress_is_told_block_by_block() -> None:
    told: list[int] = []
    samples = rows(100, 3, 0)
    blocks = (Moments.of(block) for block in blocks_of(samples))
    frechet_error(gaussian(samples), blocks, factored(gaussian(rows(9, 3, 1))), told.append)
    assert told == list(range(1, 21))
