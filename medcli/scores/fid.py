"""Frechet distance between two Gaussians (FID, and sFID on spatial features).

Source: Heusel et al. 2017 (arXiv 1706.08500), equation 6; the root as in metrics-facts 1.3.
Dimension key: D features, R and Q ranks of the two covariances.
"""

from __future__ import annotations

import torch

from medcli.scores.covariance_factor import Factored, factored
from medcli.scores.moments import Gaussian, check_same_width

EIGENVALUE_ACCURACY = 1e-10
"""Largest error bound, relative to both traces, with which the quick way to the root is taken."""
NUM_POWER_STEPS = 10
EPS = torch.finfo(torch.float64).eps


def frechet_distance(samples: Gaussian, reference: Gaussian | Factored) -> float:
    """|m1 - m2|^2 + Tr S1 + Tr S2 - 2 Tr (S1 S2)^(1/2), in float64, never negative, finite for any rank.

    With S_i = H_i H_i^T the trace of the root is the sum of the singular values of H1^T H2: no matrix root is taken, so
    nothing turns complex or needs a ridge. Their squares are the eigenvalues of H2^T S1 H2, which cost a quarter; they
    are used when none is so small that its root would lose digits.

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
    # Below its own error a distance is 0: equal sets score 0, not 1e-13.
    return distance if distance > 2 * error + len(step_D) * EPS * traces else 0.0


def root_trace(samples: Gaussian, reference: Factored, *, allowed: float) -> tuple[float, float]:
    """Tr (S1 S2)^(1/2), and a bound of its error that is at most `allowed` unless rounding itself is more."""
    scale = largest_eigenvalue(samples.covariance_DD) * largest_eigenvalue(reference.gaussian.covariance_DD)
    rank = reference.factor_DR.shape[1]
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
    """Sum of the roots of the eigenvalues of H^T S H, and a bound of what rounding of the eigenvalues moves it by."""
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
