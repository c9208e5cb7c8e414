"""Kernel distance between two sets of features.

Source: Binkowski et al. 2018 (arXiv 1801.01401): squared MMD with k(x, y) = (x.y / D + 1)^3, unbiased estimator.
Dimension key: N samples, M reference rows, D features.
"""

from __future__ import annotations

import torch

from medcli.errors import DataError
from medcli.metrics.estimate import Estimate
from medcli.metrics.moments import check_same_width, finite

TILE_ROWS = 2048
"""Rows of one side of a tile: a tile of kernel values takes 32 MiB."""


def kernel_distance(samples_ND: torch.Tensor, reference_MD: torch.Tensor) -> Estimate:
    """Unbiased squared MMD over all rows, in float64: A + B - 2 C, the mean kernel values within and across the sets.

    It may be slightly negative when the sets are alike. All rows, no random subsets: tools that draw subsets of 1000
    scatter around this value.

    The standard error is the jackknife that leaves out one sample at a time, the reference held fixed; row sums are all
    it needs. With r_i the sum of k over the other samples, c_i that over the reference, and

        u_i = 2 c_i / ((N - 1) M) - 2 r_i / ((N - 1) (N - 2)),

    the value without sample i is u_i plus a constant, so the error is sqrt((N - 1) / N * sum_i (u_i - mean u)^2).
    With fewer than 3 samples there is none.

    Raises:
        DataError: If a set has fewer than 2 rows, the widths differ, or a row is not finite.
    """
    check_same_width(samples_ND.shape[1], reference_MD.shape[1])
    num_samples, num_reference = len(samples_ND), len(reference_MD)
    if min(num_samples, num_reference) < 2:
        raise DataError(f"KID needs at least 2 images on each side, got {num_samples} and {num_reference}")
    samples_ND, reference_MD = finite(samples_ND).cpu(), finite(reference_MD).cpu()
    within_N, across_N = _sums_within(samples_ND), _sums_across(samples_ND, reference_MD)
    value = (
        within_N.sum() / (num_samples * (num_samples - 1))
        + _sums_within(reference_MD).sum() / (num_reference * (num_reference - 1))
        - 2 * across_N.sum() / (num_samples * num_reference)
    )
    return Estimate(
        value=float(value),
        standard_error=_error(within_N, across_N / num_reference),
        method="jackknife over samples",
    )


def _error(within_N: torch.Tensor, mean_across_N: torch.Tensor) -> float | None:
    num = len(within_N)
    if num < 3:
        return None
    shift_N = 2 * mean_across_N / (num - 1) - 2 * within_N / ((num - 1) * (num - 2))
    return float(((num - 1) / num * (shift_N - shift_N.mean()).square().sum()).sqrt())


def _sums_within(rows_ND: torch.Tensor) -> torch.Tensor:
    """(N,) sum of the kernel of each row with every other row; each pair is computed once."""
    sums_N = torch.zeros(len(rows_ND), dtype=torch.float64)
    for first in range(0, len(rows_ND), TILE_ROWS):
        left_BD = rows_ND[first : first + TILE_ROWS].double()
        tile_BB = _kernel(left_BD @ left_BD.T, left_BD.shape[1]).fill_diagonal_(0)
        sums_N[first : first + TILE_ROWS] += tile_BB.sum(dim=1)
        for second in range(first + TILE_ROWS, len(rows_ND), TILE_ROWS):
            tile_BB = _kernel(left_BD @ rows_ND[second : second + TILE_ROWS].double().T, left_BD.shape[1])
            sums_N[first : first + TILE_ROWS] += tile_BB.sum(dim=1)
            sums_N[second : second + TILE_ROWS] += tile_BB.sum(dim=0)
    return sums_N


def _sums_across(left_ND: torch.Tensor, right_MD: torch.Tensor) -> torch.Tensor:
    """(N,) sum of the kernel of each row with all rows of the other set."""
    sums_N = torch.zeros(len(left_ND), dtype=torch.float64)
    for first in range(0, len(left_ND), TILE_ROWS):
        left_BD = left_ND[first : first + TILE_ROWS].double()
        for right_BD in torch.split(right_MD, TILE_ROWS):
            tile_BB = _kernel(left_BD @ right_BD.double().T, left_BD.shape[1])
            sums_N[first : first + TILE_ROWS] += tile_BB.sum(dim=1)
    return sums_N


def _kernel(products: torch.Tensor, dim: int) -> torch.Tensor:
    return (products / dim + 1) ** 3
