"""FID extrapolated to infinitely many samples.

E[FID at n samples] = FID at infinity + c / n + smaller terms. FID is computed on subsets of increasing size and a line
in 1 / n is fitted to the values; its intercept is the score without the bias of few samples.

Source: Chong and Forsyth 2020 (arXiv 1911.07023); metrics-facts 3.
Dimension key: N samples, D features, K sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from medcli.errors import DataError
from medcli.scores.fid import Factored, frechet_distance
from medcli.scores.moments import Moments
from medcli.scores.standard_error import permutation

NUM_SIZES = 15
SMALLEST_SHARE = 5
"""The smallest subsets hold a fifth of the samples: smaller ones deviate from the line."""
FEWEST_PER_FEATURE = 10
"""Samples needed for each feature. At this minimum the intercept is low by about its standard error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Extrapolation:
    """A line through FID over 1 / n."""

    value: float
    """Its intercept: FID of infinitely many samples against this reference. It may fall below 0 by its error."""
    fit_error: float
    """Standard error of the intercept from the scatter about the line alone."""
    slope: float
    """c, the coefficient of 1 / n."""
    sizes: tuple[int, ...]
    distances: tuple[float, ...]
    """FID at each size, the mean over disjoint subsets where several fit into the samples."""


def fid_at_infinity(
    rows_ND: torch.Tensor,
    reference: Factored,
    *,
    seed: int = 0,
    on_progress: Callable[[int], None] = lambda _done: None,
) -> Extrapolation:
    """Fit FID over 1 / n on 15 sizes, evenly spaced from a fifth of the samples to all of them.

    Each size takes its own permutation of the samples and cuts as many subsets from it as fit, so no subset holds a
    sample twice. A size weighs in the fit as many samples as it has, since the variance of FID falls about so.

    Args:
        rows_ND: Pool features of the samples.
        reference: Reference statistics.
        seed: Of the permutations.
        on_progress: Called with the number of sizes done.

    Raises:
        DataError: If there are fewer than 10 samples a feature.
    """
    num, dim = rows_ND.shape
    if num < FEWEST_PER_FEATURE * dim:
        raise DataError(
            f"{num} samples are too few to extrapolate FID: {FEWEST_PER_FEATURE * dim} are needed, "
            f"{FEWEST_PER_FEATURE} for each of {dim} features",
            hint="score more samples, or leave out --extrapolate",
        )
    sizes = tuple(round(size) for size in torch.linspace(num / SMALLEST_SHARE, num, NUM_SIZES).tolist())
    distances = []
    for place, size in enumerate(sizes):
        distances.append(_mean_distance(rows_ND, permutation(num, seed, place), size, reference))
        on_progress(place + 1)
    return _line(sizes, tuple(distances))


def _mean_distance(rows_ND: torch.Tensor, order_N: torch.Tensor, size: int, reference: Factored) -> float:
    subsets = [order_N[first : first + size] for first in range(0, len(order_N) - size + 1, size)]
    found = [frechet_distance(Moments.of(rows_ND[subset]).gaussian(), reference) for subset in subsets]
    return sum(found) / len(found)


def _line(sizes: tuple[int, ...], distances: tuple[float, ...]) -> Extrapolation:
    """Weighted least squares with the intercept's standard error."""
    weight_K, value_K = (torch.tensor(values, dtype=torch.float64) for values in (sizes, distances))
    mean_x = len(sizes) / sum(sizes)  # the weighted mean of 1 / n with weights n
    mean_y = float((weight_K * value_K).sum() / weight_K.sum())
    offset_K = 1 / weight_K - mean_x
    spread = float((weight_K * offset_K.square()).sum())
    slope = float((weight_K * offset_K * value_K).sum()) / spread
    residual_K = value_K - mean_y - slope * offset_K
    variance = float((weight_K * residual_K.square()).sum()) / (len(sizes) - 2)
    return Extrapolation(
        value=mean_y - slope * mean_x,
        fit_error=(variance * (1 / float(weight_K.sum()) + mean_x**2 / spread)) ** 0.5,
        slope=slope,
        sizes=sizes,
        distances=distances,
    )
