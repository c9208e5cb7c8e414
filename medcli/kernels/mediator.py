"""The core of mediator attention in two kernels, instead of fifteen and more. Imports Triton.

`collect`: softmax over tokens of the mediators' scores, times the values: a summary of each mediator. `spread`: softmax
over mediators of the queries' scores, times the summaries, plus the depth-wise convolution of the values. Scores are
read, or computed in the kernel from mediators, queries and keys; sums and softmaxes are float32.

Dimension key: B images, H heads, N tokens, M mediators, K head width, D = H K, S side of the token grid.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 64
"""Tokens of a step of `collect`, and of a program of `spread`."""
MIN_DOT = 16
"""Fewest rows of a product on tensor cores."""


@triton.jit
def _collect(
    score_ptr, left_ptr, right_ptr, bias_ptr, value_ptr, out_ptr,
    s_sb, s_sr, l_sb, l_sm, r_sb, r_sn, v_sb, v_sn, scale,
    N: tl.constexpr, H: tl.constexpr, M: tl.constexpr, K: tl.constexpr,
    BM: tl.constexpr, BK: tl.constexpr, T: tl.constexpr, HAS_SCORES: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """summary[b, h] = softmax over tokens of the scores, times v, with an online softmax."""
    b, h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    m, k, t = tl.arange(0, BM), tl.arange(0, BK), tl.arange(0, T)
    is_m, is_k = m < M, k < K
    is_mk = is_m[:, None] & is_k[None]
    top = tl.full((BM,), -1e30, tl.float32)
    total = tl.zeros((BM,), tl.float32)
    summary = tl.zeros((BM, BK), tl.float32)
    if not HAS_SCORES:
        left = tl.load(left_ptr + b * l_sb + m[:, None] * l_sm + h * K + k[None], mask=is_mk, other=0.0)
    for start in range(0, N, T):
        n = start + t
        is_n = n < N
        is_mn = is_m[:, None] & is_n[None]
        if HAS_SCORES:
            at = score_ptr + b * s_sb + (h * M + m)[:, None] * s_sr + n[None]
            s = tl.load(at, mask=is_mn, other=0.0).to(tl.float32)
        else:
            at = right_ptr + b * r_sb + n[None] * r_sn + (h * K + k)[:, None]
            s = tl.dot(left, tl.load(at, mask=is_k[:, None] & is_n[None], other=0.0), input_precision=DOT) * scale
            s += tl.load(bias_ptr + (h * M + m)[:, None] * N + n[None], mask=is_mn, other=0.0).to(tl.float32)
        s = tl.where(is_n[None], s, -1e30)
        higher = tl.maximum(top, tl.max(s, 1))
        shrink = tl.exp(top - higher)
        p = tl.exp(s - higher[:, None])
        at = value_ptr + b * v_sb + n[:, None] * v_sn + h * K + k[None]
        v = tl.load(at, mask=is_n[:, None] & is_k[None], other=0.0)
        total = total * shrink + tl.sum(p, 1)
        summary = summary * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision=DOT)
        top = higher
    summary = summary / total[:, None]
    at = out_ptr + ((b * H + h) * M + m)[:, None] * K + k[None]
    tl.store(at, summary.to(out_ptr.dtype.element_ty), mask=is_mk)


@triton.jit
def _spread(
    score_ptr, left_ptr, right_ptr, bias_ptr, const_ptr, value_ptr, summary_ptr, weight_ptr, wbias_ptr, out_ptr,
    s_sb, s_sr, l_sb, l_sm, r_sb, r_sn, v_sb, v_sn, scale,
    N: tl.constexpr, S: tl.constexpr, H: tl.constexpr, M: tl.constexpr, K: tl.constexpr,
    BM: tl.constexpr, BK: tl.constexpr, T: tl.constexpr, HAS_SCORES: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """out[b, tile, h] = softmax over mediators of the scores, transposed, times summary + convolution of v."""
    tile, h, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    m, k, n = tl.arange(0, BM), tl.arange(0, BK), tile * T + tl.arange(0, T)
    is_m, is_k, is_n = m < M, k < K, n < N
    is_mk, is_mn = is_m[:, None] & is_k[None], is_m[:, None] & is_n[None]
    if HAS_SCORES:
        at = score_ptr + b * s_sb + (h * M + m)[:, None] * s_sr + n[None]
        s = tl.load(at, mask=is_mn, other=0.0).to(tl.float32)
        s += tl.load(const_ptr + (b * H + h) * M + m, mask=is_m, other=0.0).to(tl.float32)[:, None]
    else:
        left = tl.load(left_ptr + b * l_sb + m[:, None] * l_sm + h * K + k[None], mask=is_mk, other=0.0)
        at = right_ptr + b * r_sb + n[None] * r_sn + (h * K + k)[:, None]
        s = tl.dot(left, tl.load(at, mask=is_k[:, None] & is_n[None], other=0.0), input_precision=DOT) * scale
        s += tl.load(bias_ptr + (h * M + m)[:, None] * N + n[None], mask=is_mn, other=0.0).to(tl.float32)
    s = tl.where(is_m[:, None], s, -1e30)
    p = tl.exp(s - tl.max(s, 0)[None])
    p = p / tl.sum(p, 0)[None]
    summary = tl.load(summary_ptr + ((b * H + h) * M + m)[:, None] * K + k[None], mask=is_mk, other=0.0)
    mixed = tl.dot(tl.trans(p).to(summary.dtype), summary, input_precision=DOT)
    row, column = n // S, n % S
    mixed += tl.load(wbias_ptr + h * K + k, mask=is_k, other=0.0).to(tl.float32)[None]
    for tap in tl.static_range(9):
        dy, dx = tap // 3 - 1, tap % 3 - 1
        is_there = is_n & (row + dy >= 0) & (row + dy < S) & (column + dx >= 0) & (column + dx < S)
        at = value_ptr + b * v_sb + (n + dy * S + dx)[:, None] * v_sn + h * K + k[None]
        v = tl.load(at, mask=is_there[:, None] & is_k[None], other=0.0).to(tl.float32)
        mixed += v * tl.load(weight_ptr + (h * K + k) * 9 + tap, mask=is_k, other=0.0).to(tl.float32)[None]
    at = out_ptr + b * N * H * K + n[:, None] * (H * K) + h * K + k[None]
    tl.store(at, mixed.to(out_ptr.dtype.element_ty), mask=is_n[:, None] & is_k[None])


class Core(NamedTuple):
    """Weights of the core at one mediator count; last strides are 1."""

    to_tokens_HMN: Tensor
    """Bias of the mediators' scores against tokens."""
    from_queries_HMN: Tensor
    """Bias of the queries' scores against mediators."""
    weight_D133: Tensor
    """Depth-wise convolution."""
    bias_D: Tensor


def mediate_scores(scores_2BRN: tuple[Tensor, Tensor], const_BHM: Tensor, value_BND: Tensor, core: Core) -> Tensor:
    """Mix values by scores.

    Args:
        scores_2BRN: Scores of mediators against tokens, and of queries against mediators, biases included; R = H M.
        const_BHM: Added to the second scores.
        value_BND: Values; may be a slice of a larger tensor.
        core: Biases and convolution.

    Returns:
        (B, N, D) of the values' type.
    """
    return _mediate(value_BND, core, scores_2BRN, const_BHM.contiguous(), (value_BND,) * 3)


def mediate_projected(
    mediator_BMD: Tensor, query_BND: Tensor, key_BND: Tensor, value_BND: Tensor, core: Core
) -> Tensor:
    """Mix values by mediators, queries and keys that are not scaled yet; otherwise as `mediate_scores`."""
    return _mediate(value_BND, core, None, value_BND, (mediator_BMD.contiguous(), query_BND, key_BND))


def _mediate(
    value_BND: Tensor,
    core: Core,
    scores: tuple[Tensor, Tensor] | None,
    const_BHM: Tensor,
    projected: tuple[Tensor, ...],
) -> Tensor:
    batch, num_tokens, width = value_BND.shape
    heads, count = core.to_tokens_HMN.shape[:2]
    head_width = width // heads
    summary = value_BND.new_empty(batch, heads, count, head_width)
    out_BND = value_BND.new_empty(batch, num_tokens, width)
    one, two = scores or (value_BND, value_BND)
    mediator, query, key = projected
    sizes: dict[str, Any] = {"N": num_tokens, "H": heads, "M": count, "K": head_width, "T": TILE}
    sizes |= {"BM": max(MIN_DOT, triton.next_power_of_2(count)), "BK": max(MIN_DOT, triton.next_power_of_2(head_width))}
    exact = value_BND.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    sizes |= {"HAS_SCORES": scores is not None, "DOT": "ieee" if exact else "tf32"}
    scale, weight_D133 = head_width**-0.5, core.weight_D133.contiguous()
    ends = (*mediator.stride()[:2],)
    with torch.cuda.device_of(value_BND):
        _collect[(batch, heads)](
            one, mediator, key, core.to_tokens_HMN, value_BND, summary,
            *one.stride()[:2], *ends, *key.stride()[:2], *value_BND.stride()[:2], scale, **sizes,
        )  # fmt: skip
        _spread[(triton.cdiv(num_tokens, TILE), heads, batch)](
            two, mediator, query, core.from_queries_HMN, const_BHM, value_BND, summary, weight_D133, core.bias_D,
            out_BND,
            *two.stride()[:2], *ends, *query.stride()[:2], *value_BND.stride()[:2], scale,
            S=round(num_tokens**0.5), **sizes,
        )  # fmt: skip
    return out_BND
