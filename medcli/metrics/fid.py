"""Frechet distance between two Gaussians (FID, and sFID on spatial features).

Source: Heusel et al. 2017 (arXiv 1706.08500), equation 6; the root as in metrics-facts 1.3.
Dimension key: D features, R rank of a covariance.
"""

from __future__ import annotations

import torch

from medcli.metrics.moments import Gaussian, check_same_width


def frechet_distance(samples: Gaussian, reference: Gaussian) -> float:
    """|m1 - m2|^2 + Tr S1 + Tr S2 - 2 Tr (S1 S2)^(1/2), in float64, never negative, finite for any rank.

    With S_i = H_i H_i^T the trace of the root is the sum of the singular values of H1^T H2: no matrix root is taken, so
    nothing turns complex or needs a ridge, and few rows make the factors thin and the work small.

    Raises:
        DataError: If the widths differ.
    """
    check_same_width(len(samples.mean_D), len(reference.mean_D))
    step_D = samples.mean_D - reference.mean_D
    factor1_DR, factor2_DR = _factor(samples.covariance_DD), _factor(reference.covariance_DD)
    root_trace = torch.linalg.svdvals(factor1_DR.T @ factor2_DR).sum()
    traces = samples.covariance_DD.trace() + reference.covariance_DD.trace()
    distance = float(step_D @ step_D + traces - 2 * root_trace)
    # Below its own rounding error a distance is 0: equal sets score 0, not 1e-13.
    return distance if distance > _rounding(len(step_D), float(traces)) else 0.0


def _factor(covariance_DD: torch.Tensor) -> torch.Tensor:
    """(D, R) with S = H H^T, leaving out the directions in which rounding is all there is."""
    values_D, vectors_DD = torch.linalg.eigh(covariance_DD)
    kept_D = values_D > _rounding(len(values_D), float(values_D[-1]))
    factor_DR: torch.Tensor = vectors_DD[:, kept_D] * values_D[kept_D].sqrt()
    return factor_DR


def _rounding(dim: int, scale: float) -> float:
    return dim * torch.finfo(torch.float64).eps * scale
