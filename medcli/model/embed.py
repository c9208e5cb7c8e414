"""Embeddings of patches, timesteps and labels."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcli.model.layout import FREQUENCY_FEATURES


class PatchEmbed(nn.Module):
    """Strided convolution that maps each patch of the latent to a token."""

    def __init__(self, in_channels: int, hidden_size: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, hidden_size, kernel_size=patch_size, stride=patch_size)

    def forward(self, latent_BCYX: Tensor) -> Tensor:
        """Embed (B, C, Y, X) as (B, N, D), tokens row by row, in the latent's dtype."""
        proj, dtype = self.proj, latent_BCYX.dtype
        bias = cast(Tensor, proj.bias).to(dtype)
        return F.conv2d(latent_BCYX, proj.weight.to(dtype), bias, stride=proj.stride).flatten(2).transpose(1, 2)


class TimestepEmbedder(nn.Module):
    """Sinusoidal features of the timestep, then a two-layer MLP."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(FREQUENCY_FEATURES, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )

    @staticmethod
    def sinusoids(t_B: Tensor) -> Tensor:
        """Return cosines, then sines, of t x 10000^(-k/128): (B, 256) float32. Source: reference-facts 1.4."""
        half = FREQUENCY_FEATURES // 2
        exponent_K = torch.arange(half, dtype=torch.float32, device=t_B.device) / half
        angle_BK = t_B.float()[:, None] * torch.exp(-math.log(10000.0) * exponent_K)
        return torch.cat([angle_BK.cos(), angle_BK.sin()], dim=1)

    def forward(self, t_B: Tensor) -> Tensor:
        """Embed timesteps (B,), integers or floats in the family's native unit, as (B, D)."""
        dtype = next(self.parameters()).dtype
        embedded_BD: Tensor = self.mlp(self.sinusoids(t_B).to(dtype))
        return embedded_BD


class LabelEmbedder(nn.Module):
    """Embedding table with a row per class and, usually, a last row for the null class."""

    def __init__(self, num_rows: int, hidden_size: int) -> None:
        super().__init__()
        # Given, not drawn: drawing on the meta device costs seconds of imports, and `initialise` draws anyway.
        self.embedding_table = nn.Embedding.from_pretrained(torch.empty(num_rows, hidden_size), freeze=False)

    def forward(self, label_B: Tensor) -> Tensor:
        """Look up (B,) integer labels as (B, D)."""
        embedded_BD: Tensor = self.embedding_table(label_B)
        return embedded_BD
