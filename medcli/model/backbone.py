"""The one diffusion transformer: DiT and SiT, with full or mediator attention in each block.

Parameter names are upstream's, so official state dicts load with no renaming.
Source: DiT (arXiv 2212.09748), SiT (arXiv 2401.08740); reference-facts 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcli.config import ModelConfig
from medcli.errors import ConfigError
from medcli.model.attention import Attention
from medcli.model.embed import LabelEmbedder, PatchEmbed, TimestepEmbedder
from medcli.model.linear import Linear, linear_gelu
from medcli.model.mediator import MediatorAttention

# Dimension key: B batch, N latent tokens, D model width, C channels, Y X latent height and width.

LAYER_NORM_EPS = 1e-6


def modulated_norm(x_BND: Tensor, shift_BD: Tensor, scale_BD: Tensor) -> Tensor:
    """LayerNorm without parameters, then a per-image scale and shift."""
    width = x_BND.shape[-1:]
    whole_batch = torch.is_grad_enabled() or torch.compiler.is_compiling() or not x_BND.is_cpu
    if whole_batch or x_BND.dtype != scale_BD.dtype:  # they differ under automatic casts
        normed_BND = F.layer_norm(x_BND, width, eps=LAYER_NORM_EPS)
        return normed_BND * (1 + scale_BD[:, None]) + shift_BD[:, None]
    # An image's scale and shift are what a LayerNorm calls weight and bias: one pass over memory instead of three.
    images = zip(x_BND, 1 + scale_BD, shift_BD, strict=True)
    return torch.stack([F.layer_norm(x_ND, width, scale, shift, LAYER_NORM_EPS) for x_ND, scale, shift in images])


class Mlp(nn.Module):
    """Two linear layers around a tanh-approximated GELU."""

    def __init__(self, hidden_size: int, mlp_size: int) -> None:
        super().__init__()
        self.fc1 = Linear(hidden_size, mlp_size)
        self.fc2 = Linear(mlp_size, hidden_size)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Transform each token on its own."""
        out_BND: Tensor = self.fc2(linear_gelu(x_BND, self.fc1.weight, self.fc1.bias))
        return out_BND


class Block(nn.Module):
    """An adaLN-zero transformer block around the attention it is given."""

    def __init__(self, hidden_size: int, mlp_size: int, attention: Attention) -> None:
        super().__init__()
        self.attn = attention
        self.mlp = Mlp(hidden_size, mlp_size)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))

    def forward(self, x_BND: Tensor, condition_BD: Tensor, num_mediators: int) -> Tensor:
        """Update tokens (B, N, D) under a condition (B, D)."""
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(condition_BD).chunk(
            6, dim=1
        )
        x_BND = x_BND + gate_attn[:, None] * self.attn(modulated_norm(x_BND, shift_attn, scale_attn), num_mediators)
        return x_BND + gate_mlp[:, None] * self.mlp(modulated_norm(x_BND, shift_mlp, scale_mlp))


class FinalLayer(nn.Module):
    """Modulated norm and the projection of each token to the values of its patch."""

    def __init__(self, hidden_size: int, patch_values: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, patch_values)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))

    def forward(self, x_BND: Tensor, condition_BD: Tensor) -> Tensor:
        """Project tokens (B, N, D) to (B, N, patch values)."""
        shift_BD, scale_BD = self.adaLN_modulation(condition_BD).chunk(2, dim=1)
        out_BNP: Tensor = self.linear(modulated_norm(x_BND, shift_BD, scale_BD))
        return out_BNP


def attention_of(config: ModelConfig, layer: int) -> Attention:
    """The attention block `layer` has under this configuration."""
    if layer in config.mediator_layers:
        return MediatorAttention(config.hidden_size, config.num_heads, config.tokens_side, config.mediators)
    return Attention(config.hidden_size, config.num_heads, config.qk_size)


class DiffusionTransformer(nn.Module):
    """A class-conditional diffusion transformer.

    The model has no modes: the mediator count is an argument of the call, and label dropout belongs to the trainer.
    Weights are uninitialised until a checkpoint is loaded or `medcli.model.init.initialise` is called.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.pos_embed = nn.Parameter(torch.empty(1, config.num_tokens, width), requires_grad=False)
        self.x_embedder = PatchEmbed(config.in_channels, width, config.patch_size)
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = LabelEmbedder(config.num_label_rows, width)
        self.blocks = nn.ModuleList(
            Block(width, config.mlp_size, attention_of(config, layer)) for layer in range(config.depth)
        )
        self.final_layer = FinalLayer(width, config.patch_size**2 * config.out_channels)

    def forward(self, latent_BCYX: Tensor, t_B: Tensor, label_B: Tensor, num_mediators: int | None = None) -> Tensor:
        """Predict from a noisy latent, as upstream's `forward` does.

        Args:
            latent_BCYX: (B, in_channels, latent_size, latent_size), scaled latent.
            t_B: (B,) native time: DiT integers 0..999, 999 = most noise; SiT floats in [0, 1], 0 = noise.
            label_B: (B,) integer labels; `num_classes` is the null class.
            num_mediators: Entry of the ladder; None = the largest, 0 = full attention in every layer.

        Returns:
            DiT: (B, out_channels, Y, X), noise prediction and, with learn_sigma, variance channels.
            SiT: (B, in_channels, Y, X). The type is the latent's, whatever the parameters' type.

        Raises:
            ConfigError: If the count is not in the ladder or the latent does not fit the model.
        """
        config = self.config
        entry = config.entry(num_mediators)
        if latent_BCYX.shape[1:] != (config.in_channels, config.latent_size, config.latent_size):
            raise ConfigError(
                f"latent of shape {tuple(latent_BCYX.shape)} does not fit a model of "
                f"(B, {config.in_channels}, {config.latent_size}, {config.latent_size})"
            )
        x_BND = self.x_embedder(latent_BCYX.to(self.pos_embed.dtype)) + self.pos_embed
        condition_BD = self.t_embedder(t_B) + self.y_embedder(label_B)
        for block in self.blocks:
            x_BND = block(x_BND, condition_BD, entry)
        out_BCYX = self.unpatchify(self.final_layer(x_BND, condition_BD))
        if config.family == "sit":
            # With learn_sigma the second half is dead weight, kept by upstream for checkpoint compatibility.
            out_BCYX = out_BCYX[:, : config.in_channels]
        return out_BCYX.to(latent_BCYX.dtype)

    def unpatchify(self, x_BNP: Tensor) -> Tensor:
        """Lay patches out as an image: features are (row in patch, column in patch, channel), channel fastest."""
        side, patch = self.config.tokens_side, self.config.patch_size
        x = x_BNP.unflatten(2, (patch, patch, self.config.out_channels)).unflatten(1, (side, side))
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def empty_model(config: ModelConfig) -> DiffusionTransformer:
    """The model on the meta device, in evaluation mode: shapes without memory, for `load_state_dict(assign=True)`."""
    with torch.device("meta"):
        return DiffusionTransformer(config).eval()
