"""Full softmax attention, the part every other attention is compared with."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from medcli.model.linear import Linear

# Dimension key: B batch, H heads, N latent tokens, K head width, D model width = H * K.


class Attention(nn.Module):
    """Multi-head self-attention with one fused q-k-v projection.

    Args:
        hidden_size: Model width D.
        num_heads: Heads H.
        qk_size: Total width of the queries and of the keys; D unless q and k are compressed.
    """

    def __init__(self, hidden_size: int, num_heads: int, qk_size: int | None = None) -> None:
        super().__init__()
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

    def forward(self, x_BND: Tensor, num_mediators: int) -> Tensor:
        """Mix (B, N, D) tokens; `num_mediators` is ignored, since this attention has none."""
        query_BHNK, key_BHNK, value_BHNK = (self.split_heads(part) for part in self.project(x_BND))
        mixed_BHNK = F.scaled_dot_product_attention(query_BHNK, key_BHNK, value_BHNK)
        out_BND: Tensor = self.proj(mixed_BHNK.transpose(1, 2).flatten(2))
        return out_BND
