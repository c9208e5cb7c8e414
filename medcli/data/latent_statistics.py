"""Normalisation of autoencoder latents by the mean and standard deviation of each channel."""

from __future__ import annotations

import torch
from torch import Tensor

from medcli.config import ModelConfig

# Dimension key: B images, C channels, Y X latent height and width.

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel; both empty: none."""
NO_STATISTICS: Statistics = ((), ())


def statistics_of(config: ModelConfig) -> Statistics:
    """Return the statistics by which a model's latents are normalised."""
    return config.latent_mean, config.latent_std


def normalised(latents_BCYX: Tensor, statistics: Statistics) -> Tensor:
    """Subtract the mean and divide by the standard deviation; without statistics nothing is done."""
    if statistics == NO_STATISTICS:
        return latents_BCYX
    mean_C11, std_C11 = _columns(statistics, latents_BCYX)
    return (latents_BCYX - mean_C11) / std_C11


def denormalised(latents_BCYX: Tensor, statistics: Statistics) -> Tensor:
    """Undo `normalised`."""
    if statistics == NO_STATISTICS:
        return latents_BCYX
    mean_C11, std_C11 = _columns(statistics, latents_BCYX)
    return latents_BCYX * std_C11 + mean_C11


def _columns(statistics: Statistics, like: Tensor) -> list[Tensor]:
    return [torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1) for values in statistics]
