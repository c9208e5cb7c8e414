"""Full softmax attention with its relative position bias, and the cache of tensors computed from weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcli.config_checks import Norm
from medcli.model.linear import Linear, linear
from medcli.model.parts import Rotary, head_norm

Made = TypeVar("Made")
Biases = tuple[Tensor, ...]
"""Composed position biases of one attention layer, see `Attention.composed`."""


class WeightCache(Generic[Made]):
    """The last result of a function of some weights, valid while their values are the same.

    Values are compared, since writes through `.data` or shared memory leave no trace in a tensor's version. That takes
    a tenth of the time of composing a bias. On accelerators the comparison would wait for the device, so nothing is
    kept there. Never part of a state dict. Under gradients nothing is kept either, so training is not affected.
    """

    def __init__(self) -> None:
        self._last: tuple[tuple[Tensor, ...], Made] | None = None

    def of(self, make: Callable[..., Made], *weights: Tensor) -> Made:
        """Return `make(*weights)`, perhaps from an earlier call; not to be written to."""
        # A compiled graph computes it itself: looking it up would leave the graph.
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or not all(map(_is_comparable, weights)):
            return make(*weights)
        last = self._last
        if last is None or not all(map(_is_same, last[0], weights)):
            last = self._last = tuple(part.detach().clone() for part in weights), make(*weights)
        return last[1]


def _is_comparable(weight: Tensor) -> bool:
    """Return whether comparing values is cheap: an ordinary tensor in the memory of the processor."""
    return weight.is_cpu and type(weight) in (Tensor, nn.Parameter)


def _is_same(kept: Tensor, weight: Tensor) -> bool:
    return kept.dtype == weight.dtype and torch.equal(kept, weight)


# Dimension key: H heads, N tokens, S tokens along one side, W = 2 S - 1 offsets along one side.

KEPT_BYTES = 2**25
"""Largest composed bias that a layer caches: it grows with N^2 and would outgrow the weights on a large grid."""


class RelativeBias(nn.Module):
    """Learned bias for the offset between two tokens of one attention layer. Source: edt-facts 1.2 and 5.

    Args:
        shape: Rows and heads of the table. MDTv2's has three unused rows beyond the offsets.
        tokens_side: Tokens along one side of the grid.
    """

    def __init__(self, shape: tuple[int, ...], tokens_side: int) -> None:
        super().__init__()
        self.tokens_side = tokens_side
        self.relative_position_bias_table = nn.Parameter(torch.empty(shape))
        self._composed = WeightCache[Tensor]()

    def forward(self) -> Tensor:
        """Compose the bias (H, N, N): element i, j is the table's row for the offset of query i from key j.

        Cached between calls without gradients, if not larger than KEPT_BYTES.
        """
        table = self.relative_position_bias_table
        num_bytes = table.shape[1] * self.tokens_side**4 * table.element_size()
        return self._composed.of(self._compose, table) if num_bytes <= KEPT_BYTES else self._compose(table)

    def _compose(self, table: Tensor) -> Tensor:
        """Compose the bias by windows over the table, keys in reverse, instead of a table of indices."""
        side, offsets = self.tokens_side, 2 * self.tokens_side - 1
        table_WWH = table[: offsets**2].unflatten(0, (offsets, offsets))
        # Axes: query row and column, head, key row and column in reverse.
        windows_SSHSS = table_WWH.unfold(0, side, 1).unfold(1, side, 1)
        return windows_SSHSS.flip(-2, -1).permute(2, 0, 1, 3, 4).flatten(3).flatten(1, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionParts:
    """Parts that the attention of some families has."""

    relative_bias: RelativeBias | None = None
    """Learned bias of the scores by offset."""
    qk_norm: Norm | None = None
    """Norm of each head's queries and keys; None: none."""
    rotary: Rotary | None = None
    """Rotation of queries and keys by their place; None: none."""


PLAIN = AttentionParts()

# Dimension key: B batch, H heads, N latent tokens, K head width, D model width = H * K.


class Attention(nn.Module):
    """Multi-head self-attention with a fused q-k-v projection.

    Args:
        hidden_size: Model width D.
        num_heads: Heads H.
        qk_size: Total width of the queries and of the keys; D unless q and k are compressed.
        parts: Parts that the family has.
    """

    modulation_NN: Tensor | None
    """Factors of the attention between two tokens, set by `medcli.model.amm.attach_amm`; None: no modulation."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        qk_size: int | None = None,
        parts: AttentionParts = PLAIN,
    ) -> None:
        super().__init__()
        if parts.relative_bias is not None:
            self.rel_pos_bias = parts.relative_bias
        self.has_relative_bias = parts.relative_bias is not None
        self.rotary = parts.rotary
        # Not a weight: attached to a trained model, never saved.
        self.register_buffer("modulation_NN", None, persistent=False)
        self.num_heads = num_heads
        self.qk_size = hidden_size if qk_size is None else qk_size
        self.head_width = self.qk_size // num_heads
        self.qkv = Linear(hidden_size, 2 * self.qk_size + hidden_size)
        self.proj = Linear(hidden_size, hidden_size)
        self.q_norm = None if parts.qk_norm is None else head_norm(parts.qk_norm, self.head_width)
        self.k_norm = None if parts.qk_norm is None else head_norm(parts.qk_norm, self.head_width)

    def project(self, x_BND: Tensor, apart: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each (B, N, width); queries and keys normalised, not yet rotated.

        They are views of one product, or, with the same bits, of memory of their own.
        """
        widths = [self.qk_size, self.qk_size, self.proj.in_features]
        if apart:
            weights = zip(self.qkv.weight.split(widths), self.qkv.bias.split(widths), strict=True)
            query_BND, key_BND, value_BND = (linear(x_BND, *each) for each in weights)
        else:
            query_BND, key_BND, value_BND = self.qkv(x_BND).split(widths, dim=-1)
        if self.q_norm is not None and self.k_norm is not None:
            query_BND = self.q_norm(query_BND.unflatten(-1, (self.num_heads, -1))).flatten(2)
            key_BND = self.k_norm(key_BND.unflatten(-1, (self.num_heads, -1))).flatten(2)
        return query_BND, key_BND, value_BND

    def placed_heads(self, x_BND: Tensor) -> Tensor:
        """Split queries or keys of all tokens into heads, (B, H, N, K), and rotate them by their place."""
        x_BHNK = self.split_heads(x_BND)
        return x_BHNK if self.rotary is None else self.rotary.tokens(x_BHNK)

    def split_heads(self, x_BND: Tensor) -> Tensor:
        """Split (B, N, D) into heads, (B, H, N, K)."""
        return x_BND.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def composed(self, num_mediators: int) -> Biases:
        """Return the position biases that a call composes from weights alone; none: empty."""
        return (self.rel_pos_bias(),) if self.has_relative_bias else ()

    def forward(
        self,
        x_BND: Tensor,
        num_mediators: int,
        kept_BK: Tensor | None = None,
        absorb: bool = True,
        biases: Biases = (),
    ) -> Tensor:
        """Mix (B, N, D) tokens with full attention.

        Args:
            x_BND: Tokens.
            num_mediators: Ignored.
            kept_BK: In masked training, grid numbers of the tokens; None: all, in order.
            absorb: Ignored.
            biases: What `composed` returns, from an earlier call; empty: compose it.
        """
        query_BND, key_BND, value_BND = self.project(x_BND)
        query_BHNK, key_BHNK = self.placed_heads(query_BND), self.placed_heads(key_BND)
        value_BHNK = self.split_heads(value_BND)
        (bias,) = biases or ((self.offset_bias(kept_BK),) if self.has_relative_bias else (None,))
        if self.modulation_NN is None:
            mixed_BHNK = _attend(query_BHNK, key_BHNK, value_BHNK, bias)
        else:
            # Modulated after the softmax without renormalisation, which fused attention does not support.
            scores_BHNN = query_BHNK * self.head_width**-0.5 @ key_BHNK.mT
            shares_BHNN = (scores_BHNN if bias is None else scores_BHNN + bias).softmax(dim=-1)
            mixed_BHNK = (shares_BHNN * self.modulation_NN.to(shares_BHNN.dtype)) @ value_BHNK
        out_BND: Tensor = self.proj(mixed_BHNK.transpose(1, 2).flatten(2))
        return out_BND

    def offset_bias(self, kept_BK: Tensor | None) -> Tensor:
        """Return the bias of the scores, (H, N, N), or (B, H, K, K) for kept tokens."""
        bias_HNN: Tensor = self.rel_pos_bias()
        if kept_BK is None:
            return bias_HNN
        return bias_HNN[:, kept_BK[:, :, None], kept_BK[:, None, :]].transpose(0, 1)


def _attend(query_BHNK: Tensor, key_BHNK: Tensor, value_BHNK: Tensor, bias: Tensor | None) -> Tensor:
    """Return softmax attention, (B, H, N, K).

    Training in bfloat16 on a CPU takes plain products: the fused kernel's backward pass takes 2.6 times as long there
    (AMD EPYC, one thread, 256 tokens, 2026-11-27).
    """
    is_plain = query_BHNK.dtype == torch.bfloat16 and query_BHNK.is_cpu and query_BHNK.requires_grad and bias is None
    if not is_plain or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(query_BHNK, key_BHNK, value_BHNK, attn_mask=bias)
    batch, heads = query_BHNK.shape[:2]
    query, key, value = (x.flatten(0, 1) for x in (query_BHNK, key_BHNK, value_BHNK))
    scores = torch.baddbmm(query.new_zeros(1), query, key.mT, beta=0, alpha=query.shape[-1] ** -0.5)
    return torch.bmm(scores.softmax(dim=-1), value).unflatten(0, (batch, heads))
