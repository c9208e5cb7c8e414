"""Kernel distance between two sets of features.

Source: Binkowski et al. 2018 (arXiv 1801.01401): squared MMD with k(x, y) = (x.y / D + 1)^3, unbiased estimator.
Dimension key: N samples, M reference rows, D features.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from medcli.errors import DataError
from medcli.scores.extractor import CPU
from medcli.scores.moments import check_same_width, finite
from medcli.scores.standard_error import Estimate, without_interactions

TILE_ROWS = 2048
"""Rows of one side of a tile: a tile of kernel values takes 32 MiB."""


def kernel_distance(
    samples_ND: torch.Tensor,
    reference_MD: torch.Tensor,
    *,
    device: torch.device = CPU,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Estimate:
    """Unbiased squared MMD over all rows, in float64: A + B - 2 C, the mean kernel values within and across the sets.

    It may be slightly negative when the sets are alike. All rows are used; tools that average over
    random subsets of 1000 scatter around this value.

    The standard error is a jackknife over the samples, the reference held fixed; there is none with fewer than 3.

    Args:
        samples_ND: (N, D) features of any float type.
        reference_MD: (M, D) features.
        device: Where tiles of kernel values are computed; it must know float64.
        on_progress: Called with the number of tiles done and their total.

    Raises:
        DataError: If a set has fewer than 2 rows, the widths differ, or a row is not finite or too large.
    """
    check_same_width(samples_ND.shape[1], reference_MD.shape[1])
    num_samples, num_reference = len(samples_ND), len(reference_MD)
    if min(num_samples, num_reference) < 2:
        raise DataError(f"KID needs at least 2 images on each side, got {num_samples} and {num_reference}")
    samples_ND, reference_MD = finite(samples_ND).cpu(), finite(reference_MD).cpu()
    tiles = _Tiles(num_samples, num_reference, device, on_progress)
    (within_N, squares), across_N = tiles.within(samples_ND), tiles.across(samples_ND, reference_MD)
    if not math.isfinite(squares * num_samples**2):  # bounds the square of their sum
        raise DataError("features are too large for KID", hint="leave kid out of --metrics")
    value = (
        within_N.sum() / (num_samples * (num_samples - 1))
        + tiles.within(reference_MD)[0].sum() / (num_reference * (num_reference - 1))
        - 2 * across_N.sum() / (num_samples * num_reference)
    )
    deviations_N = _deviations(within_N, squares, across_N / num_reference)
    return Estimate.of(float(value), deviations_N, "jackknife over samples")


def _deviations(within_N: torch.Tensor, squares: float, mean_across_N: torch.Tensor) -> torch.Tensor | None:
    """Parts of the standard error by the leave-one-out jackknife, from row sums.

    With r_i the sum of k over the other samples, c_i that over the reference, and

        u_i = 2 c_i / ((N - 1) M) - 2 r_i / ((N - 1) (N - 2)),

    the value without sample i is u_i plus a constant, so the error is sqrt((N - 1) / N * sum_i (u_i - mean u)^2). The
    part counted twice (`without_interactions`) is 2 / (N (N - 1)) times the mean square of the doubly centred kernel,
    here in the unbiased form of Szekely and Rizzo 2014.

    Args:
        within_N: r, float64.
        squares: Sum of k^2 over ordered pairs of different samples.
        mean_across_N: c / M, float64.
    """
    num = len(within_N)
    if num < 3:
        return None
    shift_N = 2 * mean_across_N / (num - 1) - 2 * within_N / ((num - 1) * (num - 2))
    deviations_N = ((num - 1) / num) ** 0.5 * (shift_N.mean() - shift_N)
    if num < 4:
        return deviations_N
    rows, total = float(within_N.square().sum()) / (num - 2), float(within_N.sum()) ** 2 / ((num - 1) * (num - 2))
    centred = max(squares - 2 * rows + total, 0.0) / (num * (num - 3))
    return without_interactions(deviations_N, 2 * centred / (num * (num - 1)))


class _Tiles:
    """Sums of kernel values, a tile at a time, with progress reports."""

    def __init__(
        self, num_samples: int, num_reference: int, device: torch.device, on_progress: Callable[[int, int], None]
    ) -> None:
        samples, reference = (-(-num // TILE_ROWS) for num in (num_samples, num_reference))
        self._total = samples * (samples + 1) // 2 + reference * (reference + 1) // 2 + samples * reference
        self._done, self._device, self._on_progress = 0, device, on_progress

    def within(self, rows_ND: torch.Tensor) -> tuple[torch.Tensor, float]:
        """(N,) sum of the kernel of each row with every other row, and the sum of its squares over all these pairs."""
        sums_N, squares = torch.zeros(len(rows_ND), dtype=torch.float64), 0.0
        for first in range(0, len(rows_ND), TILE_ROWS):
            left_BD = self._move(rows_ND, first)
            tile_BB = self._kernel(left_BD, left_BD).fill_diagonal_(0)
            sums_N[first : first + TILE_ROWS] += tile_BB.sum(dim=1).cpu()
            squares += float(tile_BB.square_().sum())
            for second in range(first + TILE_ROWS, len(rows_ND), TILE_ROWS):
                tile_BB = self._kernel(left_BD, self._move(rows_ND, second))
                sums_N[first : first + TILE_ROWS] += tile_BB.sum(dim=1).cpu()
                sums_N[second : second + TILE_ROWS] += tile_BB.sum(dim=0).cpu()
                squares += 2 * float(tile_BB.square_().sum())
        return sums_N, squares

    def across(self, left_ND: torch.Tensor, right_MD: torch.Tensor) -> torch.Tensor:
        """(N,) sum of the kernel of each row with all rows of the other set."""
        sums_N = torch.zeros(len(left_ND), dtype=torch.float64)
        for first in range(0, len(left_ND), TILE_ROWS):
            left_BD = self._move(left_ND, first)
            for second in range(0, len(right_MD), TILE_ROWS):
                tile_BB = self._kernel(left_BD, self._move(right_MD, second))
                sums_N[first : first + TILE_ROWS] += tile_BB.sum(dim=1).cpu()
        return sums_N

    def _move(self, rows_ND: torch.Tensor, first: int) -> torch.Tensor:
        return rows_ND[first : first + TILE_ROWS].to(self._device).double()

    def _kernel(self, left_BD: torch.Tensor, right_BD: torch.Tensor) -> torch.Tensor:
        tile_BB = (left_BD @ right_BD.T).div_(left_BD.shape[1]).add_(1).pow_(3)
        self._done += 1
        self._on_progress(self._done, self._total)
        return tile_BB
