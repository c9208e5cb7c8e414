"""Covariances as products S = H H^T, with as many columns as the rank and no more.

Dimension key: D features, R rank, K directions found so far.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medcli.scores.moments import Gaussian

BLOCK_COLUMNS = 256
"""Columns of a triangle that are multiplied at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Factored:
    """A Gaussian whose covariance was factored once, to be compared with many others."""

    gaussian: Gaussian
    factor_DR: torch.Tensor
    """(D, R) float64 with covariance = H H^T up to rounding."""
    is_lower: bool
    """Whether it is a lower triangle."""

    def congruence(self, other_DD: torch.Tensor) -> torch.Tensor:
        """(R, R) lower triangle of H^T S H for a symmetric S; what stands above the diagonal means nothing."""
        factor_DR = self.factor_DR
        if not self.is_lower:
            return factor_DR.T @ (other_DD @ factor_DR)
        product_RR = torch.zeros_like(factor_DR)
        # Block columns that skip the zeros of H and the upper half of the result: a third of the operations.
        for first in range(0, len(factor_DR), BLOCK_COLUMNS):
            last = first + BLOCK_COLUMNS
            column_DB = other_DD[first:, first:] @ factor_DR[first:, first:last]
            product_RR[first:, first:last] = factor_DR[first:, first:].T @ column_DB
        return product_RR


def factored(gaussian: Gaussian) -> Factored:
    """Factor the covariance: by Cholesky where it is regular, else by Cholesky with pivots, which finds the rank.

    Neither needs eigenvectors. The second costs D R^2 operations, so the few-sample case, whose covariance has less
    rank than features, is cheap.
    """
    covariance_DD = gaussian.covariance_DD
    dim = len(covariance_DD)
    max_rank = dim if gaussian.num_rows is None else min(dim, gaussian.num_rows - 1)
    if max_rank == dim:
        lower_DD, info = torch.linalg.cholesky_ex(covariance_DD)
        if not int(info) and float(lower_DD.diagonal().min() ** 2) > rounding(covariance_DD):
            return Factored(gaussian=gaussian, factor_DR=lower_DD, is_lower=True)
    return Factored(gaussian=gaussian, factor_DR=_pivoted(covariance_DD, max_rank), is_lower=False)


def rounding(covariance_DD: torch.Tensor) -> float:
    """Variance below which rounding of a covariance is all there is."""
    largest = float(covariance_DD.diagonal().max()) if len(covariance_DD) else 0.0
    return len(covariance_DD) * torch.finfo(torch.float64).eps * largest


def _pivoted(covariance_DD: torch.Tensor, max_rank: int) -> torch.Tensor:
    """Cholesky with pivots: take the feature of most remaining variance, explain all others by it, and so on.

    Source: Higham 1990, "Analysis of the Cholesky decomposition of a semi-definite matrix"; LAPACK's dpstrf.
    """
    rows_RD = torch.zeros(max_rank, len(covariance_DD), dtype=torch.float64)
    variance_D = covariance_DD.diagonal().clone()
    for rank in range(max_rank):
        pivot = int(variance_D.argmax())
        largest = float(variance_D[pivot])
        if largest <= rounding(covariance_DD):
            return rows_RD[:rank].T
        known_KD = rows_RD[:rank]
        row_D = (covariance_DD[pivot] - known_KD[:, pivot] @ known_KD) / largest**0.5
        rows_RD[rank] = row_D
        variance_D -= row_D.square()
        variance_D[pivot] = 0  # explained entirely; rounding must not make it a pivot again
    return rows_RD.T
