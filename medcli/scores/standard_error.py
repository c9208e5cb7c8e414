"""Scores with their standard errors: the delete-a-group jackknife and shares of independent answers.

The bootstrap is no choice here: drawing rows with replacement shifts FID by half its value and overstates the error,
while leaving blocks out hits the scatter of fresh sets (metrics-facts 3).
Dimension key: N rows, G blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

NUM_BLOCKS = 20
"""Blocks of samples left out in turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A value, its standard error, and how the error was found."""

    value: float
    standard_error: float | None = None
    """In the units of the value; None if it can't be estimated."""
    method: str = ""
    """Method of the error, in words, for reports."""


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


def blocks_of(rows_ND: torch.Tensor, num_blocks: int = NUM_BLOCKS) -> list[torch.Tensor]:
    """Cut rows into contiguous blocks whose sizes differ by at most one; with fewer rows than blocks, one row each."""
    return list(torch.tensor_split(rows_ND, min(num_blocks, max(len(rows_ND), 1))))


def binomial_error(share: float, num: int) -> float:
    """Standard error of a share of `num` independent yes-or-no answers."""
    return (share * (1 - share) / num) ** 0.5
