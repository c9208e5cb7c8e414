"""Printed standard errors against the spread of fresh draws: simulations, whose figures docs/metrics.md has."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean, stdev

import pytest
import torch

from medcli.scores.fid import factored, frechet_deviations, frechet_distance
from medcli.scores.inception_score import inception_score_estimate
from medcli.scores.kid import kernel_distance
from medcli.scores.moments import Moments
from medcli.scores.precision_recall import precision_recall
from medcli.scores.standard_error import Estimate, error_of_difference, num_blocks, num_pairs, random_blocks

pytestmark = pytest.mark.slow

Score = Callable[[torch.Tensor, torch.Tensor], Estimate]


def fid(samples: torch.Tensor, reference: torch.Tensor) -> Estimate:
    gaussian, target = Moments.of(samples).gaussian(), factored(Moments.of(reference).gaussian())
    blocks = (Moments.of(samples[block]) for block in random_blocks(len(samples), num_blocks(samples.shape[1])))
    deviations = frechet_deviations(gaussian, blocks, target, num_pairs=num_pairs(samples.shape[1]))
    return Estimate.of(frechet_distance(gaussian, target), deviations, "")


def kid(samples: torch.Tensor, reference: torch.Tensor) -> Estimate:
    return kernel_distance(samples, reference)


def inception(samples: torch.Tensor, _reference: torch.Tensor) -> Estimate:
    return inception_score_estimate(2 * samples, block_size=250)


def precision(samples: torch.Tensor, reference: torch.Tensor) -> Estimate:
    counts = precision_recall(samples, reference)
    return Estimate.of(counts.precision, counts.precision_deviations_N, "")


def recall(samples: torch.Tensor, reference: torch.Tensor) -> Estimate:
    counts = precision_recall(samples, reference)
    return Estimate.of(counts.recall, counts.recall_deviations_G, "")


def draw(num: int, dim: int, seed: int, *, num_modes: int = 1, shift: float = 0.0, size: float = 1.0) -> torch.Tensor:
    """Normal rows around `num_modes` centres, which are the same for all seeds."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(num_modes, dim, generator=torch.Generator().manual_seed(7))
    chosen = centres[torch.randint(num_modes, (num,), generator=generator)] if num_modes > 1 else 0.0
    return chosen + size * torch.randn(num, dim, generator=generator) + shift / dim**0.5


CASES = [
    pytest.param(fid, 1000, 32, {}, id="fid of 1000 in 32 dimensions"),
    pytest.param(fid, 300, 8, {"shift": 1.0}, id="fid of 300 in 8, shifted"),
    pytest.param(fid, 60, 64, {}, id="fid of 60 in 64"),
    pytest.param(fid, 130, 64, {}, id="fid of 130 in 64"),
    pytest.param(fid, 40, 64, {"num_modes": 3}, id="fid of 40 in 64, three classes"),
    pytest.param(fid, 500, 16, {"num_modes": 6}, id="fid of 500 in 16, six classes"),
    pytest.param(kid, 200, 16, {}, id="kid of 200 in 16"),
    pytest.param(kid, 40, 32, {"num_modes": 4}, id="kid of 40 in 32, four classes"),
    pytest.param(inception, 250, 10, {}, id="inception score of one block"),
    pytest.param(inception, 1000, 10, {}, id="inception score of four blocks"),
    pytest.param(inception, 510, 10, {}, id="inception score with a last block of 10"),
    pytest.param(precision, 300, 8, {}, id="precision of 300 in 8"),
    pytest.param(recall, 40, 16, {}, id="recall of 40 in 16"),
    pytest.param(recall, 300, 16, {}, id="recall of 300 in 16"),
    pytest.param(recall, 300, 32, {"size": 0.8}, id="recall of 300 in 32, too narrow"),
    pytest.param(recall, 200, 8, {"num_modes": 5}, id="recall of 200 in 8, five classes"),
    pytest.param(recall, 100, 4, {"shift": 1.0}, id="recall of 100 in 4, shifted"),
]


@pytest.mark.parametrize(("score", "num", "dim", "options"), CASES)
def test_the_printed_error_is_the_spread_of_fresh_draws(
    score: Score, num: int, dim: int, options: dict[str, float]
) -> None:
    reference = draw(600, dim, 10_001, num_modes=int(options.get("num_modes", 1)))
    found = [score(draw(num, dim, seed, **options), reference) for seed in range(100)]  # type: ignore[arg-type]
    spread = stdev(estimate.value for estimate in found)
    printed = fmean(estimate.standard_error or 0.0 for estimate in found)
    print(f"printed {printed:.4g}, spread {spread:.4g}, ratio {printed / spread:.2f}")  # pytest -m slow -s
    assert 0.75 < printed / spread < 1.35, f"printed {printed:.4g}, spread {spread:.4g}"


@pytest.mark.parametrize("score", [fid, kid, inception, precision, recall])
def test_the_error_of_a_paired_difference_is_the_spread_of_differences(score: Score) -> None:
    reference = draw(600, 16, 10_001)
    differences, printed, unpaired = [], [], []
    for seed in range(60):
        left = draw(200, 16, seed)
        right = 0.95 * left + 0.1 * draw(200, 16, seed + 5000)  # the same noise, another schedule
        pair = score(left, reference), score(right, reference)
        differences.append(pair[0].value - pair[1].value)
        printed.append(error_of_difference(*pair, is_paired=True) or 0.0)
        unpaired.append(error_of_difference(*pair, is_paired=False) or 0.0)
    ratio = fmean(printed) / stdev(differences)
    assert 0.7 < ratio < 1.4, f"printed {fmean(printed):.4g}, spread {stdev(differences):.4g}"
    assert fmean(unpaired) > 1.5 * fmean(printed)


@pytest.mark.parametrize("score", [fid, kid, precision, recall])
def test_the_error_does_not_depend_on_the_order_of_rows(score: Score) -> None:
    reference = draw(600, 16, 10_001, num_modes=6)
    samples = draw(600, 16, 1, num_modes=6)
    by_class = samples[samples[:, 0].sort().indices]
    one, other = (score(rows, reference).standard_error or 0.0 for rows in (samples, by_class))
    assert 1 / 1.4 < one / other < 1.4


def test_pairs_of_independent_sets_keep_their_error() -> None:
    """Pairing sets that share nothing leaves the mean error of their difference as it is."""
    reference = draw(600, 16, 10_001)
    ratios = []
    for seed in range(20):
        pair = [fid(draw(200, 16, seed + shift), reference) for shift in (0, 9000)]
        paired, apart = (error_of_difference(*pair, is_paired=flag) or 0.0 for flag in (True, False))
        ratios.append(paired / apart)
    assert fmean(ratios) == pytest.approx(1, abs=0.1)
