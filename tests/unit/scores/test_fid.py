from __future__ import annotations

import pytest
import torch

from medcli.scores import fid
from medcli.scores.fid import Factored, factored, frechet_deviations, frechet_distance
from medcli.scores.moments import Gaussian, Moments
from medcli.scores.standard_error import random_blocks


def diagonal(mean: list[float], variances: list[float]) -> Gaussian:
    return Gaussian(
        mean_D=torch.tensor(mean, dtype=torch.float64),
        covariance_DD=torch.diag(torch.tensor(variances, dtype=torch.float64)),
        num_rows=None,
    )


def test_diagonal_gaussians_have_the_closed_form_distance() -> None:
    first, second = diagonal([0, 1, 2], [4, 9, 1]), diagonal([1, 1, 0], [1, 16, 0.25])
    # |m1 - m2|^2 + sum (s1 - s2)^2 over standard deviations
    assert frechet_distance(first, second) == pytest.approx(5 + 1 + 1 + 0.25, rel=1e-14)


def test_directions_without_variance_add_only_the_other_side() -> None:
    assert frechet_distance(diagonal([0, 0], [4, 0]), diagonal([0, 0], [0, 9])) == pytest.approx(13, rel=1e-14)


def test_equal_gaussians_are_at_distance_zero_exactly() -> None:
    root = torch.randn(30, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    same = Gaussian(mean_D=root[0], covariance_DD=root @ root.T, num_rows=None)
    assert frechet_distance(same, same) == 0


def regular(seed: int, dim: int = 12, num: int = 60) -> Gaussian:
    rows = torch.randn(num, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Moments.of(rows * torch.linspace(1, 0.01, dim)).gaussian()


def test_the_quick_way_by_eigenvalues_gives_what_singular_values_give(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = frechet_distance(regular(0), regular(1))
    monkeypatch.setattr(fid, "EIGENVALUE_ACCURACY", -1)
    assert frechet_distance(regular(0), regular(1)) == pytest.approx(quick, rel=1e-11)


def test_regular_covariances_take_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.linalg, "svdvals", lambda *_: pytest.fail("not the quick way"))
    frechet_distance(regular(0), regular(1))


def test_a_product_with_lost_eigenvalues_takes_the_exact_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Orthogonal supports: the eigenvalues of the product are rounding, and their roots would be errors of 1e-8."""
    taken: list[int] = []
    svdvals = torch.linalg.svdvals
    monkeypatch.setattr(torch.linalg, "svdvals", lambda matrix: taken.append(1) or svdvals(matrix))
    first, second = diagonal([0] * 4, [1, 1, 0, 0]), diagonal([0] * 4, [0, 0, 1, 1])
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    turned = [
        Gaussian(mean_D=each.mean_D, covariance_DD=turn.T @ each.covariance_DD @ turn, num_rows=None)
        for each in (first, second)
    ]
    assert frechet_distance(*turned) == pytest.approx(4, abs=1e-12)
    assert taken


def test_a_reference_factored_once_gives_the_same_distance() -> None:
    assert frechet_distance(regular(0), factored(regular(1))) == frechet_distance(regular(0), regular(1))


@pytest.mark.parametrize("num", [3, 7, 12, 13])
def test_few_rows_give_the_distance_of_their_span(num: int) -> None:
    """From the centred rows themselves, which need no covariance and no rank."""
    rows = torch.randn(num, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    few, other = Moments.of(rows).gaussian(), regular(3)
    root = (rows - few.mean_D) @ torch.linalg.cholesky(other.covariance_DD)
    inner = torch.linalg.svdvals(root).sum() / (num - 1) ** 0.5
    step = few.mean_D - other.mean_D
    expected = float(step @ step + few.covariance_DD.trace() + other.covariance_DD.trace() - 2 * inner)
    assert frechet_distance(few, other) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(other, few) == pytest.approx(expected, rel=1e-9)


def gaussian_of(covariance: torch.Tensor, num_rows: int | None = None) -> Gaussian:
    return Gaussian(mean_D=torch.zeros(len(covariance)).double(), covariance_DD=covariance, num_rows=num_rows)


def random_rows(num: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def product(found: Factored) -> torch.Tensor:
    return found.factor_DR @ found.factor_DR.T


def test_a_regular_covariance_is_a_lower_triangle_times_its_transpose() -> None:
    covariance = Moments.of(random_rows(40, 7)).gaussian().covariance_DD
    found = factored(gaussian_of(covariance))
    assert found.is_lower
    assert torch.equal(found.factor_DR, found.factor_DR.tril())
    torch.testing.assert_close(product(found), covariance, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("num_rows", [5, None])
def test_few_rows_give_a_factor_with_as_many_columns_as_the_rank(num_rows: int | None) -> None:
    covariance = Moments.of(random_rows(5, 30)).gaussian().covariance_DD
    found = factored(gaussian_of(covariance, num_rows))
    assert found.factor_DR.shape == (30, 4)
    assert not found.is_lower
    torch.testing.assert_close(product(found), covariance, rtol=1e-13, atol=1e-13)


def test_dead_and_doubled_features_lower_the_rank() -> None:
    rows = random_rows(50, 6)
    rows[:, 2] = 0
    rows[:, 5] = rows[:, 1]
    covariance = Moments.of(rows).gaussian().covariance_DD
    found = factored(gaussian_of(covariance))
    assert found.factor_DR.shape == (6, 4)
    torch.testing.assert_close(product(found), covariance, rtol=1e-13, atol=1e-13)


def test_a_constant_set_has_no_directions() -> None:
    assert factored(gaussian_of(torch.zeros(3, 3, dtype=torch.float64))).factor_DR.shape == (3, 0)


@pytest.mark.parametrize("block_columns", [1, 3, 256])
@pytest.mark.parametrize("num", [50, 4])
def test_the_congruence_is_the_product_of_three(num: int, block_columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fid, "BLOCK_COLUMNS", block_columns)
    found = factored(Moments.of(random_rows(num, 8)).gaussian())
    other = Moments.of(random_rows(50, 8, seed=1)).gaussian().covariance_DD
    expected = found.factor_DR.T @ other @ found.factor_DR
    torch.testing.assert_close(found.congruence(other).tril(), expected.tril(), rtol=1e-12, atol=1e-12)


def rows(num: int, dim: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(num, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(rows_ND: torch.Tensor) -> Gaussian:
    return Moments.of(rows_ND).gaussian()


def found_error(
    samples: torch.Tensor, reference: Gaussian, *, num_blocks: int = 20, num_pairs: int = 0
) -> float | None:
    blocks = (Moments.of(samples[block]) for block in random_blocks(len(samples), num_blocks))
    deviations = frechet_deviations(gaussian(samples), blocks, factored(reference), num_pairs=num_pairs)
    return None if deviations is None else float(deviations.norm())


def without(samples: torch.Tensor, reference: Gaussian, *blocks: torch.Tensor) -> float:
    keep = torch.ones(len(samples), dtype=torch.bool)
    for block in blocks:
        keep[block] = False
    return frechet_distance(gaussian(samples[keep]), reference)


def brute_force(samples: torch.Tensor, reference: Gaussian, *, num_pairs: int = 0) -> float:
    """The textbook formulas for equal blocks, every subset scored from its rows."""
    blocks = random_blocks(len(samples), 20)
    values = torch.tensor([without(samples, reference, block) for block in blocks], dtype=torch.float64)
    variance = float(19 / 20 * (values - values.mean()).square().sum())
    interactions = []
    for place in range(0, 2 * num_pairs, 2):
        both = without(samples, reference, blocks[place], blocks[place + 1])
        single = values[place] + values[place + 1]
        interactions.append(20 * frechet_distance(gaussian(samples), reference) - 19 * float(single) + 18 * both)
    second_order = sum(each**2 for each in interactions) / max(1, num_pairs) * 19 / 40
    return max(variance - second_order, variance / 2) ** 0.5


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
    for num_pairs in (0, 3, 10):
        expected = brute_force(samples, reference, num_pairs=num_pairs)
        assert found_error(samples, reference, num_pairs=num_pairs) == pytest.approx(expected, rel=1e-8)


def test_the_error_is_the_scatter_of_fresh_samples() -> None:
    reference = gaussian(rows(5000, 4, 99, 1.1))
    sets = [rows(500, 4, seed) for seed in range(60)]
    scatter = torch.tensor([frechet_distance(gaussian(samples), reference) for samples in sets]).std()
    mean_error = sum(found_error(samples, reference, num_blocks=100, num_pairs=50) for samples in sets[:10]) / 10
    assert mean_error == pytest.approx(float(scatter), rel=0.25)


@pytest.mark.parametrize(("num", "has_error"), [(2, False), (3, True), (7, True)])
def test_two_samples_must_remain(num: int, has_error: bool) -> None:
    assert (found_error(rows(num, 3, 0), gaussian(rows(9, 3, 1))) is not None) == has_error


def test_statistics_of_an_unknown_number_have_no_error() -> None:
    known = gaussian(rows(40, 3, 0))
    unknown = Gaussian(mean_D=known.mean_D, covariance_DD=known.covariance_DD, num_rows=None)
    assert frechet_deviations(unknown, (), factored(gaussian(rows(9, 3, 1)))) is None


def test_progress_is_reported_block_by_block() -> None:
    seen: list[int] = []
    samples = rows(100, 3, 0)
    blocks = (Moments.of(samples[block]) for block in random_blocks(len(samples)))
    frechet_deviations(gaussian(samples), blocks, factored(gaussian(rows(9, 3, 1))), seen.append)
    assert seen == list(range(1, 21))


@pytest.mark.parametrize(("samples", "reference"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
@pytest.mark.parametrize("num_rows", [None, 3, 50])
def test_sets_of_equal_images_have_an_exact_distance(samples: float, reference: float, num_rows: int | None) -> None:
    def gaussian(mean: float, variance: float) -> Gaussian:
        covariance_DD = variance * torch.eye(4, dtype=torch.float64)
        return Gaussian(
            mean_D=torch.full((4,), mean, dtype=torch.float64), covariance_DD=covariance_DD, num_rows=num_rows
        )

    found = frechet_distance(gaussian(0, samples), gaussian(2, reference))
    assert found == pytest.approx(4 * 2**2 + 4 * (samples + reference))
