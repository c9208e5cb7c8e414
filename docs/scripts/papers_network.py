"""Network as the papers' code computes it: biases resized and repeated in each call, explicit softmax.

The baseline of `bench_papers.py`. It shares no code with `medcli.model`, so optimisations there do not speed it up.
Where the papers' code leaves a choice, it takes the faster one: blocks without mediators use fused attention.

Source: reference-facts 1.3 to 1.6 and 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from medcli.config import ModelConfig
from medcli.model.layout import FREQUENCY_FEATURES

# Dimension key: B batch, H heads, N latent tokens, M mediator tokens, K head width, D model width = H * K, C channels,
# S tokens along one side, s mediators along one side, Y X latent height and width.

LAYER_NORM_EPS = 1e-6
MAX_PERIOD = 10000.0


@dataclass(frozen=True, slots=True)
class PapersNetwork:
    """A network at one mediator count, as a function of its weights."""

    weights: Mapping[str, Tensor]
    """State dict of the model."""
    config: ModelConfig
    num_mediators: int
    """Mediator count; 0: full attention."""

    def __call__(self, latent_BCYX: Tensor, t_B: Tensor, label_B: Tensor) -> Tensor:
        """Return the model's raw output, as `DiffusionTransformer.forward` does."""
        config, weights = self.config, self.weights
        patches = F.conv2d(
            latent_BCYX, weights["x_embedder.proj.weight"], weights["x_embedder.proj.bias"], stride=config.patch_size
        )
        x_BND = patches.flatten(2).transpose(1, 2) + weights["pos_embed"]
        condition_BD = self.time(t_B) + F.embedding(label_B, weights["y_embedder.embedding_table.weight"])
        for layer in range(config.depth):
            x_BND = self.block(x_BND, condition_BD, layer)
        shift, scale = self.linear("final_layer.adaLN_modulation.1", F.silu(condition_BD)).chunk(2, dim=1)
        return self.image(self.linear("final_layer.linear", modulated(x_BND, shift, scale)))

    def linear(self, name: str, x: Tensor) -> Tensor:
        """Apply the linear layer of this name."""
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def time(self, t_B: Tensor) -> Tensor:
        """Embed the time: (B, D)."""
        half = FREQUENCY_FEATURES // 2
        place = torch.arange(half, dtype=torch.float32, device=t_B.device)
        angle = t_B[:, None].float() * torch.exp(-math.log(MAX_PERIOD) * place / half)[None]
        features = torch.cat([torch.cos(angle), torch.sin(angle)], dim=-1)
        return self.linear("t_embedder.mlp.2", F.silu(self.linear("t_embedder.mlp.0", features)))

    def block(self, x_BND: Tensor, condition_BD: Tensor, layer: int) -> Tensor:
        """Apply one transformer block, its adaLN included."""
        name = f"blocks.{layer}"
        parts = self.linear(f"{name}.adaLN_modulation.1", F.silu(condition_BD)).chunk(6, dim=1)
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = parts
        is_mediated = self.num_mediators and layer in self.config.mediator_layers
        attend = self.mediator_attention if is_mediated else self.full_attention
        x_BND = x_BND + gate_attn[:, None] * attend(modulated(x_BND, shift_attn, scale_attn), f"{name}.attn")
        hidden = self.linear(f"{name}.mlp.fc1", modulated(x_BND, shift_mlp, scale_mlp))
        hidden = self.linear(f"{name}.mlp.fc2", F.gelu(hidden, approximate="tanh"))
        return x_BND + gate_mlp[:, None] * hidden

    def heads(self, x_BND: Tensor) -> Tensor:
        """Reshape (B, N, D) to (B, H, N, K)."""
        return x_BND.reshape(*x_BND.shape[:2], self.config.num_heads, -1).permute(0, 2, 1, 3)

    def full_attention(self, x_BND: Tensor, name: str) -> Tensor:
        """Apply full attention."""
        widths = [self.config.qk_size, self.config.qk_size, self.config.hidden_size]
        query, key, value = (self.heads(part) for part in self.linear(f"{name}.qkv", x_BND).split(widths, dim=-1))
        mixed_BHNK = F.scaled_dot_product_attention(query, key, value)
        return self.linear(f"{name}.proj", mixed_BHNK.transpose(1, 2).reshape(x_BND.shape))

    def mediator_attention(self, x_BND: Tensor, name: str) -> Tensor:
        """Apply mediator attention, the eight steps of reference-facts 3.2."""
        batch, _, width = x_BND.shape
        side, pooled_side = self.config.tokens_side, math.isqrt(self.num_mediators)
        query_BND, key_BND, value_BND = self.linear(f"{name}.qkv", x_BND).chunk(3, dim=-1)
        query_BDSS = query_BND.reshape(batch, side, side, width).permute(0, 3, 1, 2)
        pooled_BDss = F.adaptive_avg_pool2d(query_BDSS, (pooled_side, pooled_side))
        pooled_BMD = pooled_BDss.reshape(batch, width, -1).permute(0, 2, 1)
        query, key, value, mediator = map(self.heads, (query_BND, key_BND, value_BND, pooled_BMD))
        to_tokens, from_queries = self.biases(name, batch)
        scale = self.config.head_dim**-0.5
        summary_BHMK = torch.softmax((mediator * scale) @ key.transpose(-2, -1) + to_tokens, dim=-1) @ value
        share_BHNM = torch.softmax((query * scale) @ mediator.transpose(-2, -1) + from_queries, dim=-1)
        mixed_BND = (share_BHNM @ summary_BHMK).transpose(1, 2).reshape(x_BND.shape)
        value_BDSS = value_BND.reshape(batch, side, side, width).permute(0, 3, 1, 2)
        local_BDSS = F.conv2d(
            value_BDSS, self.weights[f"{name}.dwc.weight"], self.weights[f"{name}.dwc.bias"], padding=1, groups=width
        )
        mixed_BND = mixed_BND + local_BDSS.permute(0, 2, 3, 1).reshape(x_BND.shape)
        return self.linear(f"{name}.proj", mixed_BND)

    def biases(self, name: str, batch: int) -> tuple[Tensor, Tensor]:
        """Resize both biases and repeat them over the batch: (B, H, M, N) and (B, H, N, M)."""
        table = f"{name}." if len(self.config.mediators) == 1 else f"{name}.ladder.{self.num_mediators}."
        side, heads, count = self.config.tokens_side, self.config.num_heads, self.num_mediators

        def resized(bias: str) -> Tensor:
            grid = F.interpolate(self.weights[table + bias], size=(side, side), mode="bilinear")
            return grid.reshape(1, heads, count, -1)

        rows_and_columns = self.weights[f"{table}ah_bias"] + self.weights[f"{table}aw_bias"]
        to_tokens = resized("an_bias").repeat(batch, 1, 1, 1)
        to_tokens = to_tokens + rows_and_columns.reshape(1, heads, count, -1).repeat(batch, 1, 1, 1)
        columns_and_rows = self.weights[f"{table}ha_bias"] + self.weights[f"{table}wa_bias"]
        from_queries = resized("na_bias").permute(0, 1, 3, 2).repeat(batch, 1, 1, 1)
        from_queries = from_queries + columns_and_rows.reshape(1, heads, -1, count).repeat(batch, 1, 1, 1)
        return to_tokens, from_queries

    def image(self, x_BNP: Tensor) -> Tensor:
        """Unpatchify; keep the first C channels of a SiT network's output."""
        side, patch, channels = self.config.tokens_side, self.config.patch_size, self.config.out_channels
        grid = x_BNP.reshape(-1, side, side, patch, patch, channels).permute(0, 5, 1, 3, 2, 4)
        out_BCYX = grid.reshape(-1, channels, side * patch, side * patch)
        return out_BCYX[:, : self.config.in_channels] if self.config.family == "sit" else out_BCYX


def modulated(x_BND: Tensor, shift_BD: Tensor, scale_BD: Tensor) -> Tensor:
    """Apply LayerNorm without parameters, then scale and shift per image."""
    normed_BND = F.layer_norm(x_BND, x_BND.shape[-1:], eps=LAYER_NORM_EPS)
    return normed_BND * (1 + scale_BD[:, None]) + shift_BD[:, None]
