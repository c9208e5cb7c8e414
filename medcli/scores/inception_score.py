"""Inception Score as ADM computes it: consecutive blocks in file order (metrics-facts 1.4).

Dimension key: N images, K classes, G groups.
"""

from __future__ import annotations

import torch

from medcli.errors import DataError
from medcli.scores.moments import finite
from medcli.scores.standard_error import NUM_BLOCKS, Estimate, blocks_of, standard_error

BLOCK_SIZE = 5000
"""Rows of a block. The papers' 50,000 samples make ten; a short last block counts as much as a full one."""


def inception_score(logits_NK: torch.Tensor, *, block_size: int = BLOCK_SIZE) -> float:
    """Mean over blocks of exp(mean_i KL(p_i || mean_i p_i)), with float64 log-softmax so that no 0 log 0 arises.

    Args:
        logits_NK: (N, K) class scores without bias, in file order: the order of the rows changes the score.
        block_size: Rows scored together.

    Raises:
        DataError: If there are no rows, or one is not finite.
    """
    scores = block_scores(logits_NK, block_size=block_size)
    return sum(scores) / len(scores)


def block_scores(logits_NK: torch.Tensor, *, block_size: int = BLOCK_SIZE) -> list[float]:
    """The score of each block. Arguments and errors as for `inception_score`."""
    if not len(logits_NK):
        raise DataError("the Inception Score needs at least 1 image, got 0")
    return [_block_score(block) for block in torch.split(finite(logits_NK), block_size)]


def inception_score_estimate(logits_NK: torch.Tensor, *, block_size: int = BLOCK_SIZE) -> Estimate:
    """The score with its standard error: from the spread of its blocks or, of a single block, by jackknife.

    Arguments and errors as for `inception_score`; a single row has no standard error.
    """
    scores = block_scores(logits_NK, block_size=block_size)
    if len(scores) == 1:
        return Estimate(
            value=scores[0],
            standard_error=_jackknife(scores[0], logits_NK),
            method=f"jackknife over {NUM_BLOCKS} blocks",
        )
    spread = float(torch.tensor(scores, dtype=torch.float64).std())
    return Estimate(
        value=sum(scores) / len(scores),
        standard_error=spread / len(scores) ** 0.5,
        method=f"spread of {len(scores)} blocks of {block_size}",
    )


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


def _jackknife(score: float, logits_NK: torch.Tensor) -> float | None:
    parts = blocks_of(logits_NK)
    if len(parts) < 2:
        return None
    sizes = [len(part) for part in parts]
    entropy_G, p_GK = (torch.stack(sums) for sums in zip(*map(_sums, parts), strict=True))
    rests_GK, num = p_GK.sum(dim=0) - p_GK, len(logits_NK)
    without = [
        _score(entropy, p_K, num - size)
        for entropy, p_K, size in zip(entropy_G.sum() - entropy_G, rests_GK, sizes, strict=True)
    ]
    return standard_error(score, sizes, without)


def _sums(logits_NK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums over rows of sum_c p log p and of p, which determine the score of any union of rows."""
    log_p_NK = logits_NK.double().log_softmax(dim=1)
    p_NK = log_p_NK.exp()
    return (p_NK * log_p_NK).sum(), p_NK.sum(dim=0)


def _score(entropy: torch.Tensor, p_K: torch.Tensor, num_rows: int) -> float:
    """exp(mean_i KL) from sums over rows."""
    mean_K = p_K.clamp(min=0) / num_rows  # a difference of sums may fall below 0 by rounding
    return float((entropy / num_rows - torch.special.xlogy(mean_K, mean_K).sum()).exp())
