"""Classifier-free guidance (arXiv 2207.12598) on a network's raw outputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medcli.diffusion.gaussian import NUM_TRAIN_TIMESTEPS

REFERENCE_CHANNELS = 3
"""Latent channels DiT and SiT guide, out of four: a relic of RGB models, kept so published FIDs reproduce."""


def power_cosine_scale(scale: float, power: float, t_B: Tensor) -> Tensor:
    """Return MDTv2's guidance scale, which grows as noise falls.

    It is 1 + (scale - 1) (1 - cos(pi (1 - t / 1000)^power)) / 2.

    Args:
        scale: Final scale.
        power: The higher, the later the scale grows; the reference's sampler uses 4, its demo 0.01.
        t_B: Timesteps of the full process, 0..999.

    Source: edt-facts 5.
    """
    progress_B = (1 - t_B / NUM_TRAIN_TIMESTEPS) ** power
    return 1 + (scale - 1) * (1 - torch.cos(math.pi * progress_B)) / 2


def combine(
    cond: Tensor,
    null: Tensor,
    scale: float | Tensor,
    channels: int | None = REFERENCE_CHANNELS,
    *,
    latent_channels: int,
) -> Tensor:
    """Combine conditional and unconditional outputs: null + scale (cond - null).

    Args:
        cond: (B, C or 2C, Y, X) output for the labels.
        null: Output for the null class, of the same shape.
        scale: A number, or one per image, (B, 1, 1, 1). 1 returns `cond` exactly.
        channels: Leading latent channels to guide, None for all. Scale 1 + s on three of four channels acts about like
            1 + 0.75 s on all (reference-facts 1.8).
        latent_channels: C. Further output channels (DiT's variance) and unguided latent channels are those of `cond`.
    """
    guided = latent_channels if channels is None else min(channels, latent_channels)
    shift = (scale - 1) * (cond[:, :guided] - null[:, :guided])
    return torch.cat([cond[:, :guided] + shift, cond[:, guided:]], dim=1)
