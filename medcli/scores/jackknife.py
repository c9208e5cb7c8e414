"""Standard errors by leaving out one block of samples at a time.

The bootstrap is no choice here: drawing rows with replacement shifts FID by half its value and overstates the error,
while leaving blocks out hits the scatter of fresh sets (metrics-facts 3).
Dimension key: D features, R dimensions of the samples' span, G blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from medcli.scores.covariance_factor import Factored, factored
from medcli.scores.fid import frechet_distance
from medcli.scores.moments import Gaussian, Moments

NUM_BLOCKS = 20
"""Contiguous blocks of samples that are left out in turn."""


def standard_error(value: float, num_rows: Sequence[int], without: Sequence[float]) -> float:
    """Standard error of a score from its values without each block.

    Source: Busing, Meijer and van der Leeden 1999, delete-m_j jackknife; with G equal blocks it is the usual
    sqrt((G - 1) / G * sum of squared deviations from their mean).

    Args:
        value: Score of all rows.
        num_rows: Rows of each block, all at least 1.
        without: Score of all rows but the block's.
    """
    share_G = torch.tensor(num_rows, dtype=torch.float64) / sum(num_rows)
    weight_G = 1 / share_G
    pseudo_G = weight_G * value - (weight_G - 1) * torch.tensor(without, dtype=torch.float64)
    mean = len(num_rows) * value - float(((1 - share_G) * torch.tensor(without, dtype=torch.float64)).sum())
    return float(((pseudo_G - mean).square() / (weight_G - 1)).mean().sqrt())


def frechet_error(
    samples: Gaussian, blocks: Iterable[Moments], reference: Factored, told: Callable[[int], None] = lambda _done: None
) -> float | None:
    """Standard error of the Frechet distance over draws of the samples; the reference is held fixed.

    Args:
        samples: All samples.
        blocks: Moments of contiguous blocks that make them up, read one at a time; empty ones are passed over.
        reference: What the samples are compared with, factored once for all blocks.
        told: Called with the number of blocks done.

    Returns:
        None where nothing can be left out: fewer than two samples would remain.
    """
    if samples.num_rows is None:
        return None
    whole = Moments(
        num_rows=samples.num_rows,
        mean_D=samples.mean_D,
        scatter_DD=samples.covariance_DD * (samples.num_rows - 1),
    )
    span = _Span.of(samples) if whole.num_rows <= len(whole.mean_D) else None
    if span:
        whole, reference = span.moments(whole), factored(span.gaussian(reference.gaussian))
    sizes, without = [], []
    for block in blocks:
        if whole.num_rows - block.num_rows < 2:
            return None
        if block.num_rows:
            rest = _rest(whole, span.moments(block) if span else block)
            sizes.append(block.num_rows)
            without.append(frechet_distance(rest.gaussian(), reference))
            told(len(sizes))
    return standard_error(frechet_distance(whole.gaussian(), reference), sizes, without)


def blocks_of(rows_ND: torch.Tensor, num_blocks: int = NUM_BLOCKS) -> list[torch.Tensor]:
    """Cut rows into contiguous blocks whose sizes differ by at most one; with fewer rows than blocks, one row each."""
    return list(torch.tensor_split(rows_ND, min(num_blocks, max(len(rows_ND), 1))))


def _rest(whole: Moments, block: Moments) -> Moments:
    """Moments of the rows outside a block: `Moments.merge` backwards."""
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
    """The directions in which few samples vary. Distances measured there differ from the true ones by a constant.

    What the constant holds, the reference's mean and variance outside the span, no choice of samples changes, so it
    leaves the scatter alone; and the matrices shrink from features to samples.
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
