"""Scores with standard errors: jackknife, shares of independent answers, and errors of differences of paired sets.

No bootstrap: drawing rows with replacement shifts FID by half its value and overstates the error, while leaving blocks
out matches the scatter of fresh sets (metrics-facts 3).
Dimension key: N rows, G parts of a standard error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from medcli.runtime.noise import Stream, words

NARROW = 256
"""Features of at most this many dimensions take more blocks."""
NUM_BLOCKS, NUM_NARROW_BLOCKS = 20, 100
"""Blocks of samples left out in turn: 20 make the error uncertain by 16 %, and each costs a spectrum."""
NUM_PAIRS, NUM_NARROW_PAIRS = 5, 50
"""Pairs of blocks left out together."""
BLOCKS_SEED, BLOCKS_PLACE = 0, 2**20
"""Seed and number of the permutation that assigns rows to blocks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A value, its standard error, and the method of the error."""

    value: float
    standard_error: float | None = None
    """In the units of the value; None if it can't be estimated."""
    method: str = ""
    """Method of the error, in words, for reports."""
    deviations_G: torch.Tensor | None = field(default=None, compare=False, repr=False)
    """Signed parts whose root of the sum of squares is the error. They belong to samples by index, so that the error of
    the difference of two sets made from the same noise is known (`error_of_difference`)."""

    @classmethod
    def of(cls, value: float, deviations_G: torch.Tensor | None, method: str) -> Estimate:
        """Estimate whose error follows from its parts; None: no error."""
        error = None if deviations_G is None else float(deviations_G.norm())
        return cls(value=value, standard_error=error, method=method, deviations_G=deviations_G)


def error_of_difference(left: Estimate, right: Estimate, *, is_paired: bool) -> float | None:
    """Standard error of the difference of two scores.

    Args:
        left: A score.
        right: The same score of another set.
        is_paired: Sample i of both sets was made from the same noise and label, so that their errors partly cancel.

    Returns:
        None if a score has no error.
    """
    if left.standard_error is None or right.standard_error is None:
        return None
    parts = left.deviations_G, right.deviations_G
    if is_paired and parts[0] is not None and parts[1] is not None and parts[0].shape == parts[1].shape:
        return float((parts[0] - parts[1]).norm())
    return math.hypot(left.standard_error, right.standard_error)


def jackknife(value: float, num_rows: Sequence[int], without: Sequence[float]) -> torch.Tensor:
    """(G,) parts of the standard error of a score, from its values without each block (`Estimate.deviations_G`).

    Source: Busing, Meijer and van der Leeden 1999, delete-m_j jackknife; with G equal blocks the error is the usual
    sqrt((G - 1) / G * sum of squared deviations from their mean).

    Args:
        value: Score of all rows.
        num_rows: Rows of each block, all at least 1.
        without: Score of all rows but the block's.
    """
    without_G = torch.tensor(without, dtype=torch.float64)
    share_G = torch.tensor(num_rows, dtype=torch.float64) / sum(num_rows)
    weight_G = 1 / share_G
    pseudo_G = weight_G * value - (weight_G - 1) * without_G
    mean = len(num_rows) * value - float(((1 - share_G) * without_G).sum())
    return (pseudo_G - mean) / ((weight_G - 1) * len(num_rows)).sqrt()


def without_interactions(deviations_G: torch.Tensor, second_order: float) -> torch.Tensor:
    """Scale parts of a jackknife error by what it counts twice.

    The jackknife's variance is V1 + 2 V2 + ... where V1 is due to samples one by one and V2 to pairs of them (Efron and
    Stein 1981); the variance wanted is V1 + V2. V2 matters for few samples, or samples like the reference.

    Args:
        deviations_G: Parts of the error.
        second_order: V2.
    """
    variance = float(deviations_G.square().sum())
    return deviations_G * (max(variance - second_order, variance / 2) / variance) ** 0.5 if variance else deviations_G


def num_blocks(dim: int) -> int:
    """Return the number of blocks to leave out for features of this width."""
    return NUM_NARROW_BLOCKS if dim <= NARROW else NUM_BLOCKS


def num_pairs(dim: int) -> int:
    """Return the number of pairs of blocks to leave out for features of this width."""
    return NUM_NARROW_PAIRS if dim <= NARROW else NUM_PAIRS


def random_blocks(num_rows: int, num_blocks: int = NUM_BLOCKS) -> list[torch.Tensor]:
    """Row numbers of random blocks, each rising: the error then does not depend on the order of rows.

    Contiguous blocks of samples sorted by class, or strided ones of samples whose classes alternate, hold few classes
    each and overstate the error by far.

    Args:
        num_rows: Rows N.
        num_blocks: Blocks; their sizes differ by at most one. With fewer rows than blocks, one row each.
    """
    order_N = permutation(num_rows, BLOCKS_SEED, BLOCKS_PLACE)
    return [part.sort().values for part in order_N.tensor_split(min(num_blocks, max(num_rows, 1)))]


def permutation(num: int, seed: int, place: int) -> torch.Tensor:
    """Random permutation of `num` numbers, a function of the seed and the place."""
    index_N = torch.arange(num)
    keys_N2 = words(seed, index_N, torch.full_like(index_N, place), 2, Stream.SCORE_SUBSET)
    return (keys_N2[:, 0] << 31 | keys_N2[:, 1] >> 1).argsort(stable=True)
