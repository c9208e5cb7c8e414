"""Inception Score as ADM computes it: consecutive blocks in file order (metrics-facts 1.4)."""

from __future__ import annotations

import torch

from medcli.errors import DataError
from medcli.metrics.moments import finite

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
    if not len(logits_NK):
        raise DataError("the Inception Score needs at least 1 image, got 0")
    scores = [_block_score(block) for block in torch.split(finite(logits_NK), block_size)]
    return sum(scores) / len(scores)


def _block_score(logits_NK: torch.Tensor) -> float:
    log_p_NK = logits_NK.double().log_softmax(dim=1)
    log_marginal_K = log_p_NK.logsumexp(dim=0) - torch.tensor(len(log_p_NK), dtype=torch.float64).log()
    # p = exp(log p) may underflow to 0, and 0 times a finite difference of logarithms is the limit wanted.
    divergence_N = (log_p_NK.exp() * (log_p_NK - log_marginal_K)).sum(dim=1)
    return float(divergence_N.mean().exp())
