"""Checks of groups of values of a model configuration."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args

from medcli.errors import ConfigError
from medcli.ladder import listing

if TYPE_CHECKING:
    from medcli.config import ModelConfig

Norm = Literal["layer", "rms"]
MlpKind = Literal["gelu", "swiglu"]


def has_parts(config: ModelConfig) -> bool:
    """Check for parts that a plain DiT or SiT does not have."""
    return config.rope or config.qk_norm or (config.norm, config.mlp, config.has_shift) != ("layer", "gelu", True)


def check_parts(config: ModelConfig) -> None:
    """Refuse parts of LightningDiT and REPA, and statistics of latents, that do not fit the network.

    Raises:
        ConfigError: Naming the value.
    """
    for name, allowed in (("norm", get_args(Norm)), ("mlp", get_args(MlpKind))):
        if getattr(config, name) not in allowed:
            raise ConfigError(f"{name} is {getattr(config, name)!r}, expected one of {', '.join(allowed)}")
    if has_parts(config) and config.family not in ("dit", "sit"):
        raise ConfigError(f"RMSNorm, SwiGLU, rotary positions and the like are for dit and sit, not {config.family}")
    if config.rope and (config.head_dim % 4 or config.qk_ratio != 1.0):
        raise ConfigError(f"rotary positions need heads of a multiple of 4 channels, these have {config.head_dim}")
    mean, std = config.latent_mean, config.latent_std
    if (mean or std) and not (len(mean) == len(std) == config.in_channels):
        raise ConfigError(
            f"statistics of {len(mean)} and {len(std)} latent channels do not fit a model of {config.in_channels}"
        )
    if not all(math.isfinite(value) for value in mean) or not all(0 < value < math.inf for value in std):
        raise ConfigError("statistics of latents must be finite, standard deviations positive")


def check_stages(config: ModelConfig) -> None:
    """Refuse stages that do not fit each other or the whole network.

    Raises:
        ConfigError: Naming the value.
    """
    depths, widths, heads = config.stage_depths, config.stage_widths, config.stage_heads
    if config.family != "edt":
        if depths or widths or heads:
            raise ConfigError(f"stages are for edt models, this is a {config.family}")
        return
    if not len(depths) == len(widths) == len(heads) or len(depths) % 2 == 0:
        raise ConfigError(
            f"an edt needs depth, width and heads for each of an odd number of stages, "
            f"got {len(depths)}, {len(widths)} and {len(heads)}"
        )
    if min(depths + heads) < 1 or sum(depths) != config.depth:
        raise ConfigError(f"stages of {listing(depths)} blocks do not make {config.depth}")
    if widths != widths[::-1] or (widths[0], heads[0]) != (config.hidden_size, config.num_heads):
        raise ConfigError(
            f"stage widths {listing(widths)} must read the same from either end and start with {config.hidden_size}"
        )
    for width, count in zip(widths, heads, strict=True):
        if width % 4 or width % count:
            raise ConfigError(f"stage width {width} must be a multiple of 4 and of the stage's {count} heads")
    if config.tokens_side % config.halvings:
        raise ConfigError(
            f"{config.tokens_side} tokens along a side can't be halved {len(depths) // 2} times",
            hint=f"the side must be a multiple of {config.halvings}",
        )
