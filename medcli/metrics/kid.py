"""Kernel distance between two sets of features.

Source: Binkowski et al. 2018 (arXiv 1801.01401): squared MMD with k(x, y) = (x.y / D + 1)^3, unbiased estimator.
Dimension key: N samples, M reference rows, D features.
"""

from __future__ import annotations

import torch

from medcli.errors import DataError
from medcli.metrics.moments import check_same_width, finite

TILE_ROWS = 2048
"""Rows of one side of a tile: a tile of kernel values takes 32 MiB."""


def kernel_distance(samples_ND: torch.Tensor, reference_MD: torch.Tensor) -> float:
    """Unbiased squared MMD over all rows, in float64; it may be slightly negative when the sets are alike.

    All rows, no random subsets: the value is the mean that tools drawing subsets of 1000 scatter around.

    Raises:
        DataError: If a set has fewer than 2 rows, the widths differ, or a row is not finite.
    """
    check_same_width(samples_ND.shape[1], reference_MD.shape[1])
    num_samples, num_reference = len(samples_ND), len(reference_MD)
    if min(num_samples, num_reference) < 2:
        raise DataError(f"KID needs at least 2 images on each side, got {num_samples} and {num_reference}")
    samples_ND, reference_MD = finite(samples_ND).cpu(), finite(reference_MD).cpu()
    within_samples = _kernel_sum(samples_ND, samples_ND) - _diagonal_sum(samples_ND)
    within_reference = _kernel_sum(reference_MD, reference_MD) - _diagonal_sum(reference_MD)
    across = _kernel_sum(samples_ND, reference_MD)
    return (
        within_samples / (num_samples * (num_samples - 1))
        + within_reference / (num_reference * (num_reference - 1))
        - 2 * across / (num_samples * num_reference)
    )


def _kernel_sum(left_ND: torch.Tensor, right_MD: torch.Tensor) -> float:
    rights = [tile.double() for tile in torch.split(right_MD, TILE_ROWS)]
    lefts = (tile.double() for tile in torch.split(left_ND, TILE_ROWS))
    return sum(float(_kernel(left @ right.T, left.shape[1]).sum()) for left in lefts for right in rights)


def _diagonal_sum(rows_ND: torch.Tensor) -> float:
    return float(_kernel(rows_ND.double().square().sum(dim=1), rows_ND.shape[1]).sum())


def _kernel(products: torch.Tensor, dim: int) -> torch.Tensor:
    return (products / dim + 1) ** 3
