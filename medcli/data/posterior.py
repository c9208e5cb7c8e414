"""Sampling of latents from an autoencoder's posterior: a normal distribution for each latent pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from medcli.runtime.noise import Stream, normal

# Dimension key: B images, C channels, Y X latent height and width.

LOG_VARIANCE_RANGE = (-30.0, 20.0)
"""Range to which diffusers' `DiagonalGaussianDistribution` clamps log-variances."""


def draw_latents(mean_BCYX: Tensor, std_BCYX: Tensor, position_B: Tensor, seed: int) -> Tensor:
    """Sample each image's latent: mean + std * noise, a new one at each position of a run (reference-facts 3.4).

    Args:
        mean_BCYX: (B, C, Y, X) float32.
        std_BCYX: (B, C, Y, X) float32, not negative.
        position_B: (B,) int64 positions in the run's sequence of draws, which determine the noise.
        seed: Random seed of the run.

    Returns:
        (B, C, Y, X) float32, not yet scaled.
    """
    shape = tuple(mean_BCYX.shape[1:])
    noise_BCYX = normal(seed, position_B, torch.zeros_like(position_B), shape, Stream.TRAIN_POSTERIOR)
    # In place: memory of a batch is fetched from the system anew each time.
    return noise_BCYX.mul_(std_BCYX).add_(mean_BCYX)
