"""The adaLN-zero block, the final layer, and the token masks that blocks run under.

Source: DiT (arXiv 2212.09748); reference-facts 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcli.config import ModelConfig
from medcli.config_checks import Norm
from medcli.model.attention import Attention, AttentionParts, Biases, RelativeBias
from medcli.model.layout import BlockGeometry, modulations, relative_table_shape
from medcli.model.linear import add_product, modulated_norm, product
from medcli.model.mediator import MediatorAttention
from medcli.model.parts import MLPS, Rotary, token_norm

TokenMasks = Mapping[str, Tensor]
"""Masks of training by site. EDT: (B, N) bool, True for kept tokens. MDTv2: (B, K) int64, numbers of the kept tokens.
Inference has none. Source: edt-facts 3 and 5."""

NO_MASKS: TokenMasks = MappingProxyType({})

DOWN_SITE = "down{}"
"""Inside a down-sampler of an EDT, numbered from 0."""
MID_SITE = "mid"
"""Inside the first stage of an EDT."""
INPUT_SITE = "input"
"""Before the first block: MDTv2 removes the tokens, EDT replaces them by their positions."""


def rows_of_masks(masks: TokenMasks, rows: slice) -> TokenMasks:
    """Select the masks of some images of a batch."""
    return {site: mask[rows] for site, mask in masks.items()} if masks else NO_MASKS


RunBlocks = Callable[..., Tensor]
"""Runs a block on tokens, further inputs by name; condition and mediator count are bound."""


# Dimension key: B batch, N tokens, K of them kept, D model width.


Modulation = tuple[Tensor | None, Tensor, Tensor, Tensor | None, Tensor, Tensor]


class Block(nn.Module):
    """An adaLN-zero transformer block with the given attention.

    Args:
        geometry: Place and size of the block.
        attention: Attention of the block.
    """

    def __init__(self, config: ModelConfig, geometry: BlockGeometry, attention: Attention) -> None:
        super().__init__()
        width, hidden = geometry.width, round(geometry.width * config.mlp_ratio)
        self.attn = attention
        self.mlp = MLPS[config.mlp](width, hidden)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(config.hidden_size, modulations(config) * width))
        self.norm1, self.norm2 = token_norm(config.norm, width), token_norm(config.norm, width)
        self.has_shift = config.has_shift
        if geometry.has_skip:
            self.skip_linear = nn.Linear(2 * width, width)

    def forward(
        self,
        x_BND: Tensor,
        condition_BD: Tensor,
        num_mediators: int,
        *,
        skip_BND: Tensor | None = None,
        kept_BK: Tensor | None = None,
        absorb: bool = True,
        biases: Biases = (),
    ) -> Tensor:
        """Update tokens under a condition.

        Tokens keep their dtype; products use that of the parameters, or of autocast.

        Args:
            x_BND: Tokens.
            condition_BD: The condition.
            num_mediators: Mediator count of the attention, if it has mediators.
            skip_BND: Earlier tokens, for a block that joins them.
            kept_BK: In masked training, grid numbers of the tokens; None: all, in order.
            absorb: Allow multiplying mediators into the weights of queries and keys where that costs less.
            biases: Position biases of the attention, if the caller has composed them.
        """
        if skip_BND is not None:
            x_BND = product(self.skip_linear, torch.cat([x_BND, skip_BND], dim=2))
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = self.modulation(condition_BD)
        normed_BND = modulated_norm(x_BND, shift_attn, scale_attn, self.norm1)
        mixed_BND = self.attn(normed_BND, num_mediators, kept_BK, absorb, biases)
        x_BND = add_product(x_BND, gate_attn[:, None], mixed_BND)
        hidden_BND = self.mlp(modulated_norm(x_BND, shift_mlp, scale_mlp, self.norm2))
        return add_product(x_BND, gate_mlp[:, None], hidden_BND)

    def modulation(self, condition_BD: Tensor) -> Modulation:
        """Return shift, scale and gate of the attention, then of the MLP, each (B, D); a shift may be None."""
        modulated: Tensor = self.adaLN_modulation(condition_BD)
        if self.has_shift:
            shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = modulated.chunk(6, dim=1)
            return shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp
        scale_attn, gate_attn, scale_mlp, gate_mlp = modulated.chunk(4, dim=1)
        return None, scale_attn, gate_attn, None, scale_mlp, gate_mlp


RunBlock = Callable[..., Tensor]
"""Calls a block with the arguments of `Block.forward`, the block first."""


class FinalLayer(nn.Module):
    """Modulated norm and projection of each token to the values of its patch."""

    def __init__(self, hidden_size: int, patch_values: int, norm: Norm = "layer") -> None:
        super().__init__()
        self.norm_final = token_norm(norm, hidden_size)
        self.linear = nn.Linear(hidden_size, patch_values)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))

    def forward(self, x_BND: Tensor, condition_BD: Tensor) -> Tensor:
        """Project tokens (B, N, D) to (B, N, patch values), in the tokens' dtype."""
        dtype = x_BND.dtype
        shift_BD, scale_BD = self.adaLN_modulation(condition_BD).to(dtype).chunk(2, dim=1)
        normed_BND = modulated_norm(x_BND, shift_BD, scale_BD, self.norm_final)
        return F.linear(normed_BND, self.linear.weight.to(dtype), self.linear.bias.to(dtype))


def attention_of(config: ModelConfig, geometry: BlockGeometry, *, mediated: bool) -> Attention:
    """Create the attention of a block."""
    width, heads, side = geometry.width, geometry.num_heads, geometry.tokens_side
    relative = RelativeBias(relative_table_shape(config, geometry), side) if config.has_relative_bias else None
    qk_size = round(width * config.qk_ratio)
    parts = AttentionParts(
        relative_bias=relative,
        qk_norm=config.norm if config.qk_norm else None,
        rotary=Rotary(side, qk_size // heads, config.position_scale) if config.rope else None,
    )
    if mediated:
        return MediatorAttention(width, heads, side, config.mediators, parts)
    return Attention(width, heads, qk_size, parts)
