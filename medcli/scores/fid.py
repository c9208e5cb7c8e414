"""Frechet distance between two Gaussians (FID, and sFID on spatial features), and its standard error.

Covariances are factored as S = H H^T, with as many columns as the rank and no more.
Source: Heusel et al. 2017 (arXiv 1706.08500), equation 6; the root as in metrics-facts 1.3.
Dimension key: D features, R and Q ranks of the two covariances, K directions found so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from medcli.scores.moments import Gaussian, Moments, check_same_width
from medcli.scores.standard_error import jackknife, without_interactions

BLOCK_COLUMNS = 256
"""Columns of a triangular factor multiplied at once."""
EIGENVALUE_ACCURACY = 1e-10
"""Largest error bound, relative to both traces, at which the root is taken from eigenvalues."""
NUM_POWER_STEPS = 10
EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True, kw_only=True, slots=True)
class Factored:
    """A Gaussian whose covariance was factored once, to be compared with many others."""

    gaussian: Gaussian
    factor_DR: torch.Tensor
    """(D, R) float64 with covariance = H H^T up to rounding."""
    is_lower: bool
    """True: it is lower triangular."""

    def congruence(self, other_DD: torch.Tensor) -> torch.Tensor:
        """(R, R) lower triangle of H^T S H for a symmetric S; entries above the diagonal are undefined."""
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
    """Factor a covariance by Cholesky if it is regular, else by pivoted Cholesky, which finds the rank.

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
    """Variance below which a covariance holds only rounding errors."""
    largest = float(covariance_DD.diagonal().max()) if len(covariance_DD) else 0.0
    return len(covariance_DD) * torch.finfo(torch.float64).eps * largest


def _pivoted(covariance_DD: torch.Tensor, max_rank: int) -> torch.Tensor:
    """Pivoted Cholesky: regress all features on the one with most remaining variance, and repeat.

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
        variance_D[pivot] = 0  # fully explained; rounding must not make it a pivot again
    return rows_RD.T


def frechet_distance(samples: Gaussian, reference: Gaussian | Factored) -> float:
    """|m1 - m2|^2 + Tr S1 + Tr S2 - 2 Tr (S1 S2)^(1/2), in float64, never negative, finite for any rank.

    With S_i = H_i H_i^T the trace of the root is the sum of the singular values of H1^T H2: no matrix root is taken, so
    nothing turns complex or needs a ridge. Their squares are the eigenvalues of H2^T S1 H2, which cost a quarter; they
    are used if none is so small that its root would lose digits.

    Raises:
        DataError: If the widths differ.
    """
    widths = len(samples.mean_D), len((reference.gaussian if isinstance(reference, Factored) else reference).mean_D)
    check_same_width(*widths)
    target = reference if isinstance(reference, Factored) else factored(reference)
    step_D = samples.mean_D - target.gaussian.mean_D
    traces = float(samples.covariance_DD.trace() + target.gaussian.covariance_DD.trace())
    root, error = root_trace(samples, target, allowed=EIGENVALUE_ACCURACY * traces)
    distance = float(step_D @ step_D) + traces - 2 * root
    # Distances below their own error are 0: equal sets score 0, not 1e-13.
    return distance if distance > 2 * error + len(step_D) * EPS * traces else 0.0


def root_trace(samples: Gaussian, reference: Factored, *, allowed: float) -> tuple[float, float]:
    """Tr (S1 S2)^(1/2), and a bound of its error that is at most `allowed` unless rounding itself is more."""
    scale = largest_eigenvalue(samples.covariance_DD) * largest_eigenvalue(reference.gaussian.covariance_DD)
    rank = reference.factor_DR.shape[1]
    if not rank or not scale:
        return 0.0, 0.0  # one side has no variance: all its images have the same features
    if samples.num_rows is None or samples.num_rows > rank:
        root, error = _by_eigenvalues(reference, samples.covariance_DD, scale)
        if error <= allowed:
            return root, error
    factor = factored(samples)
    if factor.factor_DR.shape[1] < rank:
        root, error = _by_eigenvalues(factor, reference.gaussian.covariance_DD, scale)
        if error <= allowed:
            return root, error
    return float(torch.linalg.svdvals(factor.factor_DR.T @ reference.factor_DR).sum()), 0.0


def _by_eigenvalues(factor: Factored, other_DD: torch.Tensor, scale: float) -> tuple[float, float]:
    """Sum of the roots of the eigenvalues of H^T S H, and a bound of its rounding error."""
    values_R = torch.linalg.eigvalsh(factor.congruence(other_DD)).clamp(min=0)
    roots_R = values_R.sqrt()
    # Weyl: each eigenvalue is off by no more than the rounding of the product. (In practice by far less.)
    lost_R = roots_R - (values_R - EPS * scale).clamp(min=0).sqrt()
    return float(roots_R.sum()), float(lost_R.sum())


def largest_eigenvalue(covariance_DD: torch.Tensor) -> float:
    """Largest eigenvalue to a few per cent, by power iteration from the column of most variance."""
    vector_D = covariance_DD[:, covariance_DD.diagonal().argmax()]
    for _ in range(NUM_POWER_STEPS):
        vector_D = covariance_DD @ (vector_D / vector_D.norm().clamp(min=torch.finfo(torch.float64).tiny))
    return float(vector_D.norm())


def frechet_deviations(
    samples: Gaussian,
    blocks: Iterable[Moments],
    reference: Factored,
    on_progress: Callable[[int], None] = lambda _done: None,
    *,
    num_pairs: int = 0,
) -> torch.Tensor | None:
    """Parts of the standard error of the Frechet distance over draws of the samples; the reference is held fixed.

    Args:
        samples: All samples.
        blocks: Moments of blocks that make them up, read one at a time; empty ones are skipped.
        reference: Reference statistics, factored once for all blocks.
        on_progress: Called with the number of blocks done.
        num_pairs: Pairs of blocks that are left out together at most, see `without_interactions`.

    Returns:
        `Estimate.deviations_G`; None if no block can be left out because fewer than two samples would remain.
    """
    if samples.num_rows is None:
        return None
    whole = Moments(
        num_rows=samples.num_rows,
        mean_D=samples.mean_D,
        scatter_DD=samples.covariance_DD * (samples.num_rows - 1),
    )
    has_span = bool(samples.covariance_DD.any()) and whole.num_rows <= len(whole.mean_D)
    span = _Span.of(samples) if has_span else None
    if span:
        whole, reference = span.moments(whole), factored(span.gaussian(reference.gaussian))
    value = frechet_distance(whole.gaussian(), reference)
    sizes, without, interactions = list[int](), list[float](), list[float]()
    before: Moments | None = None
    for block in (span.moments(block) if span else block for block in blocks if block.num_rows):
        rest = _rest(whole, block)
        if rest.num_rows < 2:
            return None
        sizes.append(block.num_rows)
        without.append(frechet_distance(rest.gaussian(), reference))
        if before is None:
            before = block if len(interactions) < num_pairs else None
        elif rest.num_rows - before.num_rows >= 2:
            pair = frechet_distance(_rest(rest, before).gaussian(), reference)
            interactions.append(_interaction(whole.num_rows, sizes[-2:], value, without[-2:], pair))
            before = None
        on_progress(len(sizes))
    second_order = (
        fmean(each**2 for each in interactions) * (len(sizes) - 1) / (2 * len(sizes)) if interactions else 0.0
    )
    return without_interactions(jackknife(value, sizes, without), second_order)


def _interaction(num_rows: int, sizes: Sequence[int], value: float, without: Sequence[float], pair: float) -> float:
    """Efron and Stein's Q of two blocks, in which the effects of the two one by one cancel.

    With G equal blocks it is G f - (G - 1) (f_i + f_j) + (G - 2) f_ij, f_i being the score without block i.
    """
    size = sum(sizes) / 2
    singles = sum((num_rows - each) * score for each, score in zip(sizes, without, strict=True))
    return (num_rows * value - singles + (num_rows - sum(sizes)) * pair) / size


def _rest(whole: Moments, block: Moments) -> Moments:
    """Moments of the rows outside a block: the inverse of `Moments.merge`."""
    num_rows = whole.num_rows - block.num_rows
    step_D = (whole.mean_D - block.mean_D) * (whole.num_rows / num_rows)
    between_DD = torch.outer(step_D, step_D) * (block.num_rows * num_rows / whole.num_rows)
    return Moments(
        num_rows=num_rows,
        mean_D=block.mean_D + step_D,
        scatter_DD=whole.scatter_DD - block.scatter_DD - between_DD,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Span:
    """Subspace spanned by few samples; distances within it differ from the true ones by a constant.

    The constant, from the reference's mean and variance outside the span, is the same for every block left out, so the
    standard error is unchanged; and matrices shrink from features to samples.
    """

    origin_D: torch.Tensor
    basis_DR: torch.Tensor
    """Orthonormal columns."""

    @classmethod
    def of(cls, samples: Gaussian) -> _Span:
        return cls(origin_D=samples.mean_D, basis_DR=torch.linalg.qr(factored(samples).factor_DR).Q)

    def moments(self, moments: Moments) -> Moments:
        return Moments(
            num_rows=moments.num_rows, mean_D=self._point(moments.mean_D), scatter_DD=self._form(moments.scatter_DD)
        )

    def gaussian(self, gaussian: Gaussian) -> Gaussian:
        return Gaussian(
            mean_D=self._point(gaussian.mean_D),
            covariance_DD=self._form(gaussian.covariance_DD),
            num_rows=gaussian.num_rows,
        )

    def _point(self, mean_D: torch.Tensor) -> torch.Tensor:
        return (mean_D - self.origin_D) @ self.basis_DR

    def _form(self, form_DD: torch.Tensor) -> torch.Tensor:
        return self.basis_DR.T @ (form_DD @ self.basis_DR)
