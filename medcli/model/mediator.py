"""Attention through mediators: a few pooled tokens stand between queries and keys.

Source: Efficient Diffusion Transformer with Step-wise Dynamic Attention Mediators (arXiv 2408.05710);
reference-facts 3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcli.model.attention import Attention
from medcli.model.shapes import BIAS_TABLES, bias_shapes

# Dimension key: B batch, H heads, N latent tokens, M mediator tokens, K head width, D model width = H * K,
# S tokens along one side of the grid.


class MediatorBias(nn.Module):
    """The six position-bias tables of one mediator count in one layer."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))


def compose_biases(
    an_bias: Tensor, na_bias: Tensor, ah_bias: Tensor, aw_bias: Tensor, ha_bias: Tensor, wa_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Add up the six tables of a count on the token grid; shapes as in `medcli.model.shapes.bias_shapes`.

    Returns:
        Bias of the mediator-to-token scores and of the query-to-mediator scores, both (H, M, N).

    Source: reference-facts 3.2, steps 4 and 6.
    """
    side = ah_bias.shape[3]

    def resized(table_HM77: Tensor) -> Tensor:
        return F.interpolate(table_HM77, size=(side, side), mode="bilinear", align_corners=False)

    to_tokens_HMSS = resized(an_bias) + (ah_bias + aw_bias)[0]
    from_queries_HMSS = resized(na_bias) + (ha_bias + wa_bias)[0].permute(0, 3, 1, 2)
    return to_tokens_HMSS.flatten(2), from_queries_HMSS.flatten(2)


class MediatorAttention(Attention):
    """Attention that goes through any count of its ladder, or, for count 0, through none.

    All counts share the projections and the depth-wise convolution; only the bias tables exist per count. A ladder of
    one count keeps upstream's parameter names, so official files load as they are.

    Args:
        hidden_size: Model width D.
        num_heads: Heads H.
        tokens_side: Tokens along one side of the square grid.
        ladder: Mediator counts, rising perfect squares.
    """

    def __init__(self, hidden_size: int, num_heads: int, tokens_side: int, ladder: tuple[int, ...]) -> None:
        super().__init__(hidden_size, num_heads)
        self.dwc = nn.Conv2d(hidden_size, hidden_size, 3, padding=1, groups=hidden_size)
        self.tokens_side = tokens_side
        self._composed: dict[int, tuple[tuple[object, ...], tuple[Tensor, Tensor]]] = {}
        self.ladder: nn.ModuleDict | None = None
        if len(ladder) == 1:
            for name, shape in bias_shapes(num_heads, tokens_side, ladder[0]).items():
                self.register_parameter(name, nn.Parameter(torch.empty(shape)))
        else:
            self.ladder = nn.ModuleDict(
                {str(count): MediatorBias(bias_shapes(num_heads, tokens_side, count)) for count in ladder}
            )

    def tables(self, num_mediators: int) -> nn.Module:
        """The module that holds the bias tables of a count."""
        return self if self.ladder is None else self.ladder[str(num_mediators)]

    def biases(self, num_mediators: int) -> tuple[Tensor, Tensor]:
        """Composed biases of a count, each (H, M, N); kept between calls while no gradient is wanted.

        They depend on the weights alone, so a kept pair is good until a table is replaced or written to.
        """
        tables = self.tables(num_mediators)
        parts: list[Tensor] = [getattr(tables, name) for name in BIAS_TABLES]
        if torch.is_grad_enabled() or any(part.is_inference() for part in parts):
            return compose_biases(*parts)
        stamp: tuple[object, ...] = tuple((part.data_ptr(), part._version, part.dtype, part.device) for part in parts)
        kept = self._composed.get(num_mediators)
        if kept is None or kept[0] != stamp:
            kept = (stamp, compose_biases(*parts))
            self._composed[num_mediators] = kept
        return kept[1]

    def grid(self, x_BND: Tensor) -> Tensor:
        """(B, N, D) tokens as a (B, D, S, S) image; a view."""
        return x_BND.transpose(1, 2).unflatten(-1, (self.tokens_side, self.tokens_side))

    def pool(self, query_BND: Tensor, num_mediators: int) -> Tensor:
        """Average the query grid into mediator tokens, (B, M, D), row by row. Source: reference-facts 3.2, step 2."""
        pooled_BDmm = F.adaptive_avg_pool2d(self.grid(query_BND), math.isqrt(num_mediators))
        return pooled_BDmm.flatten(2).transpose(1, 2)

    def mediate(self, query_BND: Tensor, key_BND: Tensor, value_BND: Tensor, num_mediators: int) -> Tensor:
        """softmax(q tᵀ) softmax(t kᵀ) v with position biases, before the convolution is added: (B, N, D).

        Costs 4 N M D multiply-adds instead of the 2 N² D of full attention, so it pays only when M < N / 2.
        """
        to_tokens_HMN, from_queries_HMN = self.biases(num_mediators)
        head_width = query_BND.shape[-1] // self.num_heads
        # Scaling the few mediators once scales both score matrices.
        mediator_BHMK = self.split_heads(self.pool(query_BND, num_mediators)) * head_width**-0.5
        key_BHNK, value_BHNK = self.split_heads(key_BND), self.split_heads(value_BND)
        summary_BHMK = (mediator_BHMK @ key_BHNK.mT + to_tokens_HMN).softmax(dim=-1) @ value_BHNK
        # Scores stay (H, M, N), tokens innermost: the softmax over few mediators then runs along whole vectors.
        share_BHMN = (mediator_BHMK @ self.split_heads(query_BND).mT + from_queries_HMN).softmax(dim=-2)
        return (share_BHMN.mT @ summary_BHMK).transpose(1, 2).flatten(2)

    def forward(self, x_BND: Tensor, num_mediators: int) -> Tensor:
        """Mix (B, N, D) tokens through `num_mediators` mediators, or with full attention for 0.

        Full attention uses the same q, k, v and projection and leaves the convolution out: it is the dense parent.
        """
        if num_mediators == 0:
            return super().forward(x_BND, 0)
        query_BND, key_BND, value_BND = self.project(x_BND)
        local_BND = self.dwc(self.grid(value_BND)).flatten(2).transpose(1, 2)
        out_BND: Tensor = self.proj(self.mediate(query_BND, key_BND, value_BND, num_mediators) + local_BND)
        return out_BND
