import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from medcli.scores.redundancy import CPU_PIECE, PANEL, AttentionRows, Redundancy, Rows, num_rings, redundancy

ORACLE_ATOL = 1e-6


def rows_of(weights_GNM: Tensor) -> Rows:
    return lambda heads, query_R: weights_GNM[heads][:, query_R]


def score(weights_GNM: Tensor, **options: Any) -> Redundancy:
    return redundancy(rows_of(weights_GNM), len(weights_GNM), weights_GNM.shape[1], **options)


def attention(num_heads: int, num_queries: int, num_keys: int, *, sharpness: float = 3.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(num_heads, num_queries, num_keys, generator=generator)).softmax(-1)


def jensen_shannon(one_M: npt.NDArray[np.float64], other_M: npt.NDArray[np.float64]) -> float:
    """By its definition: the mean Kullback-Leibler divergence to the midpoint, float64, in nats."""

    def relative(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
        kept = p > 0
        return float((p[kept] * np.log(p[kept] / q[kept])).sum())

    middle = (one_M + other_M) / 2
    return (relative(one_M, middle) + relative(other_M, middle)) / 2


def brute_force(weights_NM: Tensor) -> float:
    """Pair by pair."""
    rows = weights_NM.double().numpy()
    return float(np.mean([jensen_shannon(rows[i], rows[j]) for i in range(len(rows)) for j in range(i)]))


def brute_distinct(weights_NM: Tensor) -> float:
    """From Kullback-Leibler divergences to the mean row: another way to write mutual information."""
    rows = weights_NM.double()
    return math.exp(float((rows * (rows / rows.mean(0)).log()).nansum(1).mean()))


@settings(deadline=None, max_examples=25)
@given(num_queries=st.integers(2, 40), num_keys=st.integers(1, 60), seed=st.integers(0, 99))
def test_queries_that_attend_alike_score_zero(num_queries: int, num_keys: int, seed: int) -> None:
    alike = attention(2, 1, num_keys, seed=seed).expand(2, num_queries, num_keys)
    scores = score(alike)
    assert scores.divergence_G.abs().max() <= ORACLE_ATOL
    assert (scores.distinct_G - 1).abs().max() <= 1e-5


@settings(deadline=None, max_examples=25)
@given(num_queries=st.integers(2, 40), spare=st.integers(0, 9), piece=st.integers(1, 3000))
def test_queries_that_share_no_key_score_ln_2(num_queries: int, spare: int, piece: int) -> None:
    apart = torch.eye(num_queries, num_queries + spare)[None]
    scores = score(apart, piece=piece)
    assert scores.divergence_G.item() == pytest.approx(math.log(2), abs=ORACLE_ATOL)
    assert scores.distinct_G.item() == pytest.approx(num_queries, rel=1e-5)


@settings(deadline=None, max_examples=25)
@given(
    num_queries=st.integers(2, 33),
    num_keys=st.integers(1, 50),
    num_heads=st.integers(1, 5),
    sharpness=st.floats(0.1, 60),
    piece=st.integers(1, 5000),
    seed=st.integers(0, 99),
)
def test_chunked_equals_brute_force(
    num_queries: int, num_keys: int, num_heads: int, sharpness: float, piece: int, seed: int
) -> None:
    weights = attention(num_heads, num_queries, num_keys, sharpness=sharpness, seed=seed)
    scores = score(weights, piece=piece)
    assert scores.is_exact
    assert scores.num_pairs == num_queries * (num_queries - 1) // 2
    assert scores.error_G.abs().max() == 0
    for head, weights_NM in enumerate(weights):
        assert scores.divergence_G[head].item() == pytest.approx(brute_force(weights_NM), abs=ORACLE_ATOL)
        assert scores.distinct_G[head].item() == pytest.approx(brute_distinct(weights_NM), rel=1e-5)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 99), num_queries=st.integers(2, 24))
def test_neither_the_order_of_queries_nor_that_of_keys_matters(seed: int, num_queries: int) -> None:
    weights = attention(1, num_queries, 19, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    shuffled = weights[:, torch.randperm(num_queries, generator=generator)][
        :, :, torch.randperm(19, generator=generator)
    ]
    assert score(shuffled).divergence_G.item() == pytest.approx(score(weights).divergence_G.item(), abs=ORACLE_ATOL)


@pytest.mark.parametrize(("num_queries", "num_keys"), [(130, 2048), (4096, 64)])
def test_long_rows_and_many_queries_keep_the_precision(num_queries: int, num_keys: int) -> None:
    weights = attention(1, num_queries, num_keys, sharpness=1.0)
    # Two pairs of groups whose mean is known exactly: half of the queries one row, half another.
    weights = weights[:, :2].repeat_interleave(num_queries // 2, dim=1)
    one, other = (row.double().numpy() for row in weights[0, [0, -1]])
    between = jensen_shannon(one, other)
    half = num_queries // 2
    expected = between * half * half / (num_queries * (num_queries - 1) / 2)
    max_pairs = None if num_queries < 1000 else 4096 * 2048
    assert score(weights, max_pairs=max_pairs).divergence_G.item() == pytest.approx(expected, abs=ORACLE_ATOL)


@settings(deadline=None, max_examples=25)
@given(num_mediators=st.integers(1, 9), sharpness=st.floats(0.1, 50), seed=st.integers(0, 99))
def test_no_more_queries_really_differ_than_mediators_stand_behind_them(
    num_mediators: int, sharpness: float, seed: int
) -> None:
    to_mediators = attention(1, 30, num_mediators, sharpness=sharpness, seed=seed)
    to_keys = attention(1, num_mediators, 40, sharpness=sharpness, seed=seed + 100)
    assert score(to_mediators @ to_keys).distinct_G.item() <= num_mediators * (1 + 1e-5)


def test_a_single_query_has_nothing_to_differ_from() -> None:
    scores = score(attention(2, 1, 5))
    assert scores.divergence_G.tolist() == [0, 0]
    assert scores.distinct_G.tolist() == [1, 1]
    assert scores.is_exact


@pytest.mark.parametrize(
    ("num_queries", "max_pairs", "expected"),
    [(64, None, 32), (64, 2016, 32), (64, 2015, 31), (64, 128, 2), (64, 1, 1), (65, 2080, 32), (4096, 32640, 7)],
)
def test_rings_hold_all_pairs_or_at_most_as_many_as_allowed(
    num_queries: int, max_pairs: int | None, expected: int
) -> None:
    assert num_rings(num_queries, max_pairs) == expected


def test_the_estimate_is_right_within_its_error() -> None:
    # Queries in clusters of unequal size: pairs differ widely, and so do the queries' own means.
    generator = torch.Generator().manual_seed(1)
    centres = 2 * torch.randn(5, 40, generator=generator)
    member_N = torch.tensor([0] * 60 + [1] * 30 + [2] * 20 + [3] * 12 + [4] * 6)
    weights = (centres[member_N] + 0.5 * torch.randn(128, 40, generator=generator)).softmax(-1)[None]
    exact = score(weights).divergence_G.item()
    draws = []
    for _ in range(120):
        shuffled = weights[:, torch.randperm(128, generator=generator)]
        scores = score(shuffled, max_pairs=512)
        assert (scores.num_pairs, scores.is_exact) == (512, False)
        draws.append((scores.divergence_G.item() - exact, scores.error_G.item()))
    misses, errors = np.array(draws).T
    assert abs(misses.mean()) < 3 * misses.std() / math.sqrt(len(misses)), "biased"
    assert np.mean(np.abs(misses) <= errors) >= 0.68
    # Safe, but not by so much that it says nothing.
    assert errors.mean() < 4 * misses.std()


def test_more_pairs_make_a_smaller_error() -> None:
    weights = attention(1, 100, 30)
    errors = [score(weights, max_pairs=pairs).error_G.item() for pairs in (100, 400, 1600, 4949, 4950)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0 == errors[-1]


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_rows_are_those_of_the_layer(ordered: bool, biased: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 3, 7, 4, generator=generator) for _ in range(2))
    bias = torch.randn(3, 7, 7, generator=generator) if biased else None
    order = torch.stack([torch.randperm(7, generator=generator) for _ in range(2)]) if ordered else None
    rows = AttentionRows.of(query, key, 0.5, bias_HNM=bias, order_BN=order)
    whole = 0.5 * query @ key.mT
    weights = (whole if bias is None else whole + bias).softmax(-1)
    if order is not None:
        weights = weights.take_along_dim(order[:, None, :, None], dim=2)
    picked = torch.tensor([6, 0, 3])
    torch.testing.assert_close(rows(slice(1, 5), picked), weights.flatten(0, 1)[1:5][:, picked])


class LargestResult(TorchDispatchMode):
    """Notes the size of the largest tensor any operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


@pytest.mark.parametrize(("num_queries", "max_pairs"), [(4096, 4096), (256, None)])
def test_memory_stays_bounded(num_queries: int, max_pairs: int | None) -> None:
    """No matrix of all queries by all keys is ever made, whatever the number of tokens."""
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 1, num_queries, 8, generator=generator) for _ in range(2))
    rows = AttentionRows.of(query, key, 0.3)
    with LargestResult() as largest:
        redundancy(rows, 1, num_queries, max_pairs=max_pairs)
    assert largest.numbers <= PANEL * CPU_PIECE
    assert num_queries < 4096 or largest.numbers < num_queries**2 / 16
