"""Redundancy of an attention head's queries: the papers' score, and the number of distinct queries.

The score is the Jensen-Shannon divergence between the attention distributions of two queries, averaged over all pairs
of different queries of a head. JSD(p, q) = H((p + q) / 2) - (H(p) + H(q)) / 2 with the natural logarithm: 0 if all
queries attend alike, ln 2 if no two of them share a key. Source: arXiv 2408.05710, section 3.

Pairs are walked in rings: ring s pairs query i with query i + s, all around, so the rings 1 to N / 2 hold every pair
once. All rings give the exact mean, at N^2 / 2 logarithms a query. The first few rings around a random order of the
queries estimate it at a cost linear in their number; every query is then in as many pairs as every other, so what one
query contributes by itself has no share in the error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Dimension key: G heads of several images, N queries, R of them at a time, M keys, K head width, H heads of one layer.

CPU_PIECE = 1 << 17
"""Elements of one intermediate result on a CPU, so that it stays in cache."""
GPU_PIECE = 1 << 24
"""Elements of one intermediate result on a GPU: 64 MB."""
PANEL = 4
"""Maximum pieces in a panel of partner rows."""
SMALLEST = 1e-37
"""Lower limit of probabilities, so that logarithms are finite; entropies are unaffected."""

Rows = Callable[[slice, Tensor], Tensor]
"""(some heads, query numbers (R,)) -> their attention distributions, (heads, R, M) float32 or float64."""


@dataclass(frozen=True, slots=True)
class Redundancy:
    """Redundancy measures of heads, each (G,) float64 on the CPU."""

    divergence_G: Tensor
    """Mean Jensen-Shannon divergence of two different queries, in nats, in [0, ln 2]. Low is redundant."""
    error_G: Tensor
    """Standard error of that mean by the choice of pairs; 0 where all pairs were taken. On the safe side: it counts
    what a query contributes by itself as random."""
    distinct_G: Tensor
    """Effective number of distinct queries, in [1, N]: e^I with I the mutual information of query and key, that is
    H(mean of the distributions) - mean of H. N mediators carry at most ln N nats from queries to keys, so a head can't
    be represented by fewer mediators than this."""
    num_pairs: int
    """Pairs of queries compared in each head."""
    is_exact: bool
    """True: these are all pairs."""


def num_rings(num_queries: int, max_pairs: int | None) -> int:
    """Number of rings to compute: all if they hold at most `max_pairs`, else as many as that allows, at least one.

    Args:
        num_queries: Queries N of a head.
        max_pairs: Pairs to compare at most; None for all N (N - 1) / 2.
    """
    every = num_queries // 2
    if max_pairs is None or num_queries * (num_queries - 1) // 2 <= max_pairs:
        return every
    return min(every, max(1, max_pairs // num_queries))


def redundancy(
    rows: Rows, num_heads: int, num_queries: int, *, max_pairs: int | None = None, piece: int = CPU_PIECE
) -> Redundancy:
    """Compute the redundancy of heads from attention distributions made a few at a time.

    Args:
        rows: Makes distributions when they are needed. For an estimate their order must be random.
        num_heads: Heads G, of one or several images.
        num_queries: Queries N of each.
        max_pairs: Pairs to compare in each head at most, see `num_rings`.
        piece: Numbers of an intermediate result at most, but at least one query's distribution.

    Returns:
        The scores. A head with a single query scores 0: there is none that differs.
    """
    first = rows(slice(0, 1), torch.zeros(1, dtype=torch.int64))
    num_keys, device = first.shape[-1], first.device
    chunk = max(1, min(num_queries, piece // num_keys))
    group = max(1, min(num_heads, piece // (chunk * num_keys)))
    rings = num_rings(num_queries, max_pairs)
    sums = torch.zeros(3, num_heads, dtype=_wide(device), device=device)
    for start in range(0, num_heads, group):
        heads = slice(start, min(start + group, num_heads))
        entropy_GN, mean_GM = _each_query(rows, heads, num_queries, chunk)
        mean_entropy_G = entropy_GN.mean(1)
        sums[2, heads] = _entropy(mean_GM.clamp_min(SMALLEST)) - mean_entropy_G
        for divergence_GR in _pairs(rows, heads, entropy_GN, chunk, rings):
            sums[0, heads] += divergence_GR.sum(1)
            sums[1, heads] += divergence_GR.square().sum(1)
    every = num_queries * (num_queries - 1) // 2
    num_pairs = every if rings == num_queries // 2 else rings * num_queries
    return _result(sums.cpu().double(), num_pairs, every, num_queries)


def _wide(device: torch.device) -> torch.dtype:
    """Data type of sums: float64, or float32 on Apple GPUs, which lack it."""
    return torch.float32 if device.type == "mps" else torch.float64


def _result(sums: Tensor, num_pairs: int, every: int, num_queries: int) -> Redundancy:
    total_G, squares_G, information_G = sums
    mean_G = total_G / max(1, num_pairs)
    variance_G = (squares_G - num_pairs * mean_G.square()).clamp_min(0) / max(1, num_pairs - 1)
    # Of a finite number of pairs a large part is known without error, and all of them are known exactly.
    left = 1 - num_pairs / every if every else 0.0
    return Redundancy(
        divergence_G=mean_G.clamp(0, math.log(2)),
        error_G=(variance_G * left / max(1, num_pairs)).sqrt(),
        distinct_G=information_G.exp().clamp(1, num_queries),
        num_pairs=num_pairs,
        is_exact=num_pairs == every,
    )


def _each_query(rows: Rows, heads: slice, num_queries: int, chunk: int) -> tuple[Tensor, Tensor]:
    """Entropy of each query's distribution, (G, N), and the mean of the distributions, (G, M), in the sums' type."""
    entropies, total = list[Tensor](), torch.zeros(())
    for start in range(0, num_queries, chunk):
        rows_GRM = _panel(rows, heads, start, min(chunk, num_queries - start), num_queries)
        wide = _wide(rows_GRM.device)
        entropies.append(_entropy(rows_GRM).to(wide))
        total = total.to(rows_GRM.device) + rows_GRM.sum(1, dtype=wide)
    return torch.cat(entropies, dim=1), total / num_queries


def _pairs(rows: Rows, heads: slice, entropy_GN: Tensor, chunk: int, rings: int) -> Iterator[Tensor]:
    """Divergences of the rings' pairs, each pair once, as (G, R) in the sums' type, of R queries against R others."""
    num_queries = entropy_GN.shape[1]
    per_panel = max(1, (PANEL - 1) * chunk)
    for first in range(0, rings + 1, per_panel):
        last = min(first + per_panel - 1, rings)
        for start in range(0, num_queries, chunk):
            length = min(chunk, num_queries - start)
            # Halved once here, so that a pair's mean is a sum; halving is exact.
            others_GRM = _panel(rows, heads, start + first, length + last - first, num_queries).div_(2)
            # Ring 0 would pair queries with themselves: there the panel starts with these queries.
            own_GRM = others_GRM if first == 0 else _panel(rows, heads, start, length, num_queries).div_(2)
            for ring in range(max(first, 1), last + 1):
                # The ring across an even number of queries meets every pair twice: its first half is enough.
                size = length if 2 * ring < num_queries else min(length, num_queries // 2 - start)
                if size <= 0:
                    continue
                mean_GRM = own_GRM[:, :size] + others_GRM[:, ring - first : ring - first + size]
                partner_R = torch.arange(start + ring, start + ring + size, device=entropy_GN.device) % num_queries
                own_entropy_GR = (entropy_GN[:, start : start + size] + entropy_GN[:, partner_R]) / 2
                yield _entropy(mean_GRM).to(entropy_GN.dtype) - own_entropy_GR


def _panel(rows: Rows, heads: slice, start: int, length: int, num_queries: int) -> Tensor:
    """Distributions of neighbouring queries, around the end, (G, R, M)."""
    return rows(heads, torch.arange(start, start + length) % num_queries).clamp_min(SMALLEST)


def _entropy(rows_M: Tensor) -> Tensor:
    """Entropy of distributions along the last axis, in nats."""
    return -torch.linalg.vecdot(rows_M, rows_M.log())


@dataclass(frozen=True, slots=True)
class AttentionRows:
    """Softmax rows of one layer's attention, computed a few at a time. A `Rows`."""

    query_GNK: Tensor
    """float32, scaled, in the order in which they are compared."""
    key_GMK: Tensor
    bias_HNM: Tensor | None
    order_GN: Tensor | None

    @classmethod
    def of(
        cls,
        query_BHNK: Tensor,
        key_BHMK: Tensor,
        scale: float,
        *,
        bias_HNM: Tensor | None = None,
        order_BN: Tensor | None = None,
    ) -> AttentionRows:
        """Attention as a layer computes it.

        Args:
            query_BHNK: Queries of some images; heads are numbered image by image.
            key_BHMK: Keys.
            scale: Factor of the scores.
            bias_HNM: Added to the scores, the same for all images.
            order_BN: Order of each image's queries; None leaves them as they are.
        """
        num_heads, order_GN = query_BHNK.shape[1], None
        query_GNK, key_GMK = (part.float().flatten(0, 1) for part in (query_BHNK, key_BHMK))
        if order_BN is not None:
            order_GN = order_BN.repeat_interleave(num_heads, 0)
            query_GNK = query_GNK[torch.arange(len(query_GNK), device=order_GN.device)[:, None], order_GN]
        return cls(query_GNK * scale, key_GMK, bias_HNM, order_GN)

    def __call__(self, heads: slice, query_R: Tensor) -> Tensor:
        """Distributions of some queries of some heads: (G, R, M) float32."""
        device = self.query_GNK.device
        query_R = query_R.to(device)
        scores_GRM = self.query_GNK[heads][:, query_R] @ self.key_GMK[heads].mT
        if self.bias_HNM is not None:
            head_G = torch.arange(heads.start, heads.stop, device=device) % len(self.bias_HNM)
            query_GR = query_R[None] if self.order_GN is None else self.order_GN[heads][:, query_R]
            scores_GRM = scores_GRM + self.bias_HNM[head_G[:, None], query_GR].float()
        return scores_GRM.softmax(dim=-1)
