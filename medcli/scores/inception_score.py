"""Inception Score as ADM computes it: consecutive blocks in file order (metrics-facts 1.4).

Dimension key: N images, K classes, B images of a piece.
"""

from __future__ import annotations

import torch

from medcli.errors import DataError
from medcli.scores.moments import finite
from medcli.scores.standard_error import Estimate

BLOCK_SIZE = 5000
"""Rows of a block. The papers' 50,000 samples make ten; a short last block counts as much as a full one."""
PIECE_ROWS = 512
"""Rows processed at once by the jackknife."""


def inception_score(logits_NK: torch.Tensor, *, block_size: int = BLOCK_SIZE) -> float:
    """Mean over blocks of exp(mean_i KL(p_i || mean_i p_i)), with float64 log-softmax so that no 0 log 0 arises.

    Args:
        logits_NK: (N, K) class scores without bias, in file order: the order of the rows changes the score.
        block_size: Rows scored together.

    Raises:
        DataError: If there are no rows, or one is not finite.
    """
    return inception_score_estimate(logits_NK, block_size=block_size, has_error=False).value


def inception_score_estimate(
    logits_NK: torch.Tensor, *, block_size: int = BLOCK_SIZE, has_error: bool = True
) -> Estimate:
    """The score with its standard error, by leaving out each row of its block in turn.

    Arguments and errors as for `inception_score`; a single row has no standard error.
    """
    if not len(logits_NK):
        raise DataError("the Inception Score needs at least 1 image, got 0")
    blocks = torch.split(finite(logits_NK), block_size)
    value = sum(_block_score(block) for block in blocks) / len(blocks)
    deviations_N = None
    if has_error and len(logits_NK) > 1:
        deviations_N = torch.cat([_block_deviations(block) for block in blocks]) / len(blocks)
    return Estimate.of(value, deviations_N, "jackknife over samples")


def order_loss(logits_NK: torch.Tensor, *, block_size: int = BLOCK_SIZE) -> float:
    """Share of the score lost to the order of rows: near 0 for a random order, large for rows sorted by class.

    The score is compared with that of strided blocks (every `num_blocks`-th row), which spread any sorting evenly.
    """
    num_blocks = -(-len(logits_NK) // block_size)
    strided_NK = torch.cat([logits_NK[first::num_blocks] for first in range(num_blocks)])
    return 1 - inception_score(logits_NK, block_size=block_size) / inception_score(strided_NK, block_size=block_size)


def _block_score(logits_NK: torch.Tensor) -> float:
    log_p_NK = logits_NK.double().log_softmax(dim=1)
    log_marginal_K = log_p_NK.logsumexp(dim=0) - torch.tensor(len(log_p_NK), dtype=torch.float64).log()
    # p = exp(log p) may underflow to 0; 0 times a finite difference of logarithms is the right limit.
    divergence_N = (log_p_NK.exp() * (log_p_NK - log_marginal_K)).sum(dim=1)
    return float(divergence_N.mean().exp())


def _block_deviations(logits_NK: torch.Tensor) -> torch.Tensor:
    """(N,) `Estimate.deviations_G` of a block's score. The score of a single row is always 1, so its part is 0.

    The score of any rows follows from their sums of p and of sum_c p log p.
    """
    num = len(logits_NK)
    if num == 1:
        return torch.zeros(1, dtype=torch.float64)
    pieces = logits_NK.split(PIECE_ROWS)
    entropy_N, p_K = torch.zeros(num, dtype=torch.float64), torch.zeros(logits_NK.shape[1], dtype=torch.float64)
    for rows_B, piece_BK in zip(entropy_N.split(PIECE_ROWS), pieces, strict=True):
        log_p_BK = piece_BK.double().log_softmax(dim=1)
        rows_B.copy_((log_p_BK.exp() * log_p_BK).sum(dim=1))
        p_K += log_p_BK.exp().sum(dim=0)
    without = []
    for rows_B, piece_BK in zip(entropy_N.split(PIECE_ROWS), pieces, strict=True):
        mean_BK = (p_K - piece_BK.double().softmax(dim=1)).clamp(min=0) / (num - 1)
        entropy_B = (entropy_N.sum() - rows_B) / (num - 1)
        without.append((entropy_B - torch.special.xlogy(mean_BK, mean_BK).sum(dim=1)).exp())
    without_N = torch.cat(without)
    return ((num - 1) / num) ** 0.5 * (without_N.mean() - without_N)
