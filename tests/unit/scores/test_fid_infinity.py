from __future__ import annotations

import pytest
import torch

from medcli.errors import DataError
from medcli.scores.fid import Factored, factored, frechet_distance
from medcli.scores.fid_infinity import fid_at_infinity
from medcli.scores.moments import Gaussian, Moments

DIM = 8
SCALE, SHIFT = 1.05, 0.02
TRUE_FID = DIM * (SHIFT**2 + (SCALE - 1) ** 2)
"""Between N(SHIFT, SCALE^2) and N(0, 1) in DIM dimensions, in closed form."""


def reference() -> Factored:
    eye = torch.eye(DIM, dtype=torch.float64)
    return factored(Gaussian(mean_D=torch.zeros(DIM, dtype=torch.float64), covariance_DD=eye, num_rows=None))


def samples(num: int, seed: int) -> torch.Tensor:
    return torch.randn(num, DIM, generator=torch.Generator().manual_seed(seed)) * SCALE + SHIFT


def test_the_intercept_is_near_the_score_of_infinitely_many_samples() -> None:
    rows = samples(2000, 0)
    plain = frechet_distance(Moments.of(rows).gaussian(), reference())
    found = fid_at_infinity(rows, reference())
    assert plain > 1.5 * TRUE_FID
    assert found.value == pytest.approx(TRUE_FID, abs=0.25 * (plain - TRUE_FID))


def test_intercepts_scatter_around_the_truth() -> None:
    found = torch.tensor([fid_at_infinity(samples(500, seed), reference()).value for seed in range(25)])
    assert float(found.mean()) == pytest.approx(TRUE_FID, abs=3 * float(found.std()) / 5)


def test_fifteen_sizes_rise_to_all_samples() -> None:
    found = fid_at_infinity(samples(1000, 0), reference())
    assert len(found.sizes) == 15
    assert (found.sizes[0], found.sizes[-1]) == (200, 1000)
    assert sorted(set(found.sizes)) == list(found.sizes)
    whole = frechet_distance(Moments.of(samples(1000, 0)).gaussian(), reference())
    assert found.distances[-1] == pytest.approx(whole, rel=1e-9)
    assert found.slope > 0


def test_the_same_seed_gives_the_same_subsets_and_another_seed_others() -> None:
    rows = samples(300, 0)
    first, again, other = (fid_at_infinity(rows, reference(), seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.distances[0] != other.distances[0]


def test_no_subset_holds_a_sample_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subsets drawn with replacement would shift FID by half its value."""
    seen: list[torch.Tensor] = []

    def recorded(rows_ND: torch.Tensor) -> Moments:
        seen.append(rows_ND[:, 0])
        return Moments.of(rows_ND)

    class Recording:
        of = staticmethod(recorded)

    monkeypatch.setattr("medcli.scores.fid_infinity.Moments", Recording)
    fid_at_infinity(samples(100, 0), reference())
    assert all(len(values.unique()) == len(values) for values in seen)
    assert len(torch.cat(seen[:5]).unique()) == 100  # the five smallest subsets share no sample


def test_the_line_is_weighted_least_squares() -> None:
    from medcli.scores.fid_infinity import _line

    sizes, values = (100, 200, 300, 500), (3.0, 2.0, 1.7, 1.4)
    weights = torch.diag(torch.tensor(sizes, dtype=torch.float64))
    design = torch.tensor([[1.0, 1 / size] for size in sizes], dtype=torch.float64)
    inverse = torch.linalg.inv(design.T @ weights @ design)
    solution = inverse @ design.T @ weights @ torch.tensor(values, dtype=torch.float64)
    residual = torch.tensor(values, dtype=torch.float64) - design @ solution
    error = float((residual @ weights @ residual / 2 * inverse[0, 0]).sqrt())
    found = _line(sizes, values)
    assert (found.value, found.slope) == pytest.approx(tuple(solution.tolist()), rel=1e-9)
    assert found.fit_error == pytest.approx(error, rel=1e-9)


def test_too_few_samples_are_refused_with_the_number_needed() -> None:
    with pytest.raises(DataError, match="79 samples are too few to extrapolate FID: 80 are needed"):
        fid_at_infinity(samples(79, 0), reference())
