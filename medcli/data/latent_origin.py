"""Latents in a folder, as a new model needs to know them: shape, stride and factors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from medcli.checkpoint.lightningdit import STRIDE
from medcli.config import SD_SCALE, VAVAE_CHANNELS
from medcli.data.external_latents import LIGHTNING_KEYS, is_lightning, lightning_statistics
from medcli.data.latent_index import AGAIN, read_index
from medcli.data.latent_statistics import NO_STATISTICS, Statistics
from medcli.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentOrigin:
    """Latents of a folder."""

    channels: int
    side: int
    stride: int
    scale: float
    shift: float = 0.0
    statistics: Statistics = NO_STATISTICS
    autoencoder: str | None = None
    """Name of the autoencoder, where the folder tells it."""


def latent_origin(name_or_path: str) -> LatentOrigin | None:
    """Describe a folder of latents of `medcli latents` or of LightningDiT; None for any other data.

    Raises:
        DataError: If the folder is damaged.
    """
    path = Path(name_or_path)
    if not path.is_dir():
        return None
    if (index := read_index(path)) is not None:
        return LatentOrigin(
            channels=index.shape[0],
            side=index.shape[1],
            stride=index.resolution_px // index.shape[1],
            scale=index.scale,
            shift=index.shift,
            autoencoder=index.autoencoder,
        )
    shards = sorted(path.glob("*.safetensors"))
    if not shards or not is_lightning(shards[0]):
        return None
    with safe_open(str(shards[0]), framework="pt") as opened:
        shape = opened.get_slice(LIGHTNING_KEYS[0]).get_shape()
    if len(shape) != 4:
        raise DataError(f"{shards[0]}: {LIGHTNING_KEYS[0]} has shape {tuple(shape)}, expected 4 axes", hint=AGAIN)
    _, channels, side, _ = shape
    statistics = lightning_statistics(path, channels)
    is_normalised = statistics != NO_STATISTICS
    return LatentOrigin(
        channels=channels,
        side=side,
        stride=STRIDE if channels == VAVAE_CHANNELS else 8,
        scale=1.0 if is_normalised else SD_SCALE,
        statistics=statistics,
    )
