"""Full softmax attention, the part every other attention is compared with."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from medcli.model.linear import Linear
from medcli.model.relative_bias import RelativeBias

# Dimension key: B batch, H heads, N latent tokens, K head width, D model width = H * K.


class Attention(nn.Module):
    """Multi-head self-attention with one fused q-k-v projection.

    Args:
        hidden_size: Model width D.
        num_heads: Heads H.
        qk_size: Total width of the queries and of the keys; D unless q and k are compressed.
        relative_bias: Bias for the offset between two tokens, if the family has one.
    """

    modulation_NN: Tensor | None
    """Weights of attention between two tokens, which `attach_amm` of `medcli.model.amm` sets; None: attention alone."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        qk_size: int | None = None,
        *,
        relative_bias: RelativeBias | None = None,
    ) -> None:
        super().__init__()
        if relative_bias is not None:
            self.rel_pos_bias = relative_bias
        self.has_relative_bias = relative_bias is not None
        # Not a weight: attached to a trained model, never saved.
        self.register_buffer("modulation_NN", None, persistent=False)
        self.num_heads = num_heads
        self.qk_size = hidden_size if qk_size is None else qk_size
        self.head_width = self.qk_size // num_heads
        self.qkv = Linear(hidden_size, 2 * self.qk_size + hidden_size)
        self.proj = Linear(hidden_size, hidden_size)

    def project(self, x_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, N, width)."""
        qkv_BNE = self.qkv(x_BND)
        query_BND, key_BND, value_BND = qkv_BNE.split([self.qk_size, self.qk_size, self.proj.in_features], dim=-1)
        return query_BND, key_BND, value_BND

    def split_heads(self, x_BND: Tensor) -> Tensor:
        """(B, N, D) as (B, H, N, K)."""
        return x_BND.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, x_BND: Tensor, num_mediators: int, kept_BK: Tensor | None = None, absorb: bool = True) -> Tensor:
        """Mix (B, N, D) tokens with full attention.

        Args:
            x_BND: Tokens.
            num_mediators: Ignored, since this attention has none.
            kept_BK: In masked training, which tokens of the grid these are; None: all, in order.
            absorb: Ignored as well.
        """
        query_BHNK, key_BHNK, value_BHNK = (self.split_heads(part) for part in self.project(x_BND))
        bias = self.offset_bias(kept_BK) if self.has_relative_bias else None
        if self.modulation_NN is None:
            mixed_BHNK = F.scaled_dot_product_attention(query_BHNK, key_BHNK, value_BHNK, attn_mask=bias)
        else:
            # Weighted after the softmax and not normalised again, so fused attention can't do it.
            scores_BHNN = query_BHNK * self.head_width**-0.5 @ key_BHNK.mT
            shares_BHNN = (scores_BHNN if bias is None else scores_BHNN + bias).softmax(dim=-1)
            mixed_BHNK = (shares_BHNN * self.modulation_NN.to(shares_BHNN.dtype)) @ value_BHNK
        out_BND: Tensor = self.proj(mixed_BHNK.transpose(1, 2).flatten(2))
        return out_BND

    def offset_bias(self, kept_BK: Tensor | None) -> Tensor:
        """Bias of the scores, (H, N, N), or (B, H, K, K) for the tokens that are kept."""
        bias_HNN: Tensor = self.rel_pos_bias()
        if kept_BK is None:
            return bias_HNN
        return bias_HNN[:, kept_BK[:, :, None], kept_BK[:, None, :]].transpose(0, 1)
