"""Autoencoders: from a model's latents to 8-bit images (straight for models of pixels), and from images back."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from medcli.config import SD_AUTOENCODER, SD_CHANNELS, ModelConfig
from medcli.data.images import to_uint8
from medcli.data.latent_space import latent_space
from medcli.data.latent_statistics import denormalised, statistics_of
from medcli.data.loaded_autoencoder import load_autoencoder
from medcli.data.posterior import LOG_VARIANCE_RANGE
from medcli.errors import CheckpointError, ConfigError

# Dimension key: B images, C latent channels, Y X height and width (of the latent, or of the image).

GPU_DECODE_BATCH = 8
"""Most latents decoded together on a GPU: enough to fill it at 256 px."""
GPU_DECODE_PIXELS = GPU_DECODE_BATCH * 256**2
"""Most pixels decoded together on a GPU: 1.5 GiB of live float32 tensors, computed for Stable Diffusion's decoder."""

GPU_ENCODE_BATCH = 32
"""Images encoded together on a GPU."""

FACTOR_TOLERANCE = 1e-4
"""Relative difference between two spellings of one factor."""
SAMPLED_WEIGHTS = 1024
"""Values hashed at the start, in the middle and at the end of a tensor."""


class Decoder(Protocol):
    """Turns latents into pictures."""

    @property
    def batch_size(self) -> int:
        """Latents of one call; a call always has this many, so that rounding does not depend on how many are left."""

    @property
    def content_id(self) -> str | None:
        """Identifies what is decoded with, by content; None if latents are pixels."""

    def decode(self, latent_BCYX: Tensor) -> Tensor:
        """(B, Y, X, 3) uint8 images on the CPU."""


class NotFiniteImageError(CheckpointError):
    """An autoencoder decodes latents to NaN or infinite pixels.

    Args:
        rows: Their places in the batch.
    """

    def __init__(self, rows: Sequence[int]) -> None:
        self.rows = tuple(rows)
        super().__init__(
            "the autoencoder decodes it to NaN or infinite pixels", hint="try --dtype fp32, or another --vae"
        )


@dataclass(frozen=True, slots=True)
class PixelDecoder:
    """For models whose latents are the image in [-1, 1], grey or RGB."""

    batch_size: int = 1
    content_id: str | None = None

    def decode(self, latent_BCYX: Tensor) -> Tensor:
        """Round to 8 bits; grey becomes RGB, so that all readers of images find three channels."""
        return to_uint8(latent_BCYX).permute(0, 2, 3, 1).expand(-1, -1, -1, 3).cpu()


@dataclass(frozen=True, slots=True)
class LatentDecoder:
    """For latents of a diffusers `AutoencoderKL`. Source: reference-facts 7."""

    autoencoder: Any
    config: ModelConfig
    batch_size: int

    @property
    def content_id(self) -> str:
        """Hash of the scale and shift of latents and of a sample of the decoder's weights."""
        config = self.config
        digest = hashlib.sha256(f"{config.latent_scale!r} {config.latent_shift!r}".encode())
        if config.latent_mean:
            digest.update(f"{config.latent_mean!r} {config.latent_std!r}".encode())
        weights = self.autoencoder.state_dict()
        for name in sorted(name for name in weights if not name.startswith(("encoder.", "quant_conv."))):
            flat = weights[name].detach().flatten()
            ends = torch.cat(
                [flat[:SAMPLED_WEIGHTS], flat[len(flat) // 2 :][:SAMPLED_WEIGHTS], flat[-SAMPLED_WEIGHTS:]]
            )
            digest.update(f"{name} {tuple(weights[name].shape)}".encode())
            digest.update(ends.float().cpu().numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def decode(self, latent_BCYX: Tensor) -> Tensor:
        """Undo scale and shift, decode, round to 8 bits.

        Raises:
            NotFiniteImageError: If pixels are NaN or infinite.
        """
        latent_BCYX = latent_BCYX / self.config.latent_scale + self.config.latent_shift
        latent_BCYX = denormalised(latent_BCYX, statistics_of(self.config))
        image_BCYX: Tensor = self.autoencoder.decode(latent_BCYX.to(self.autoencoder.dtype)).sample
        finite_B = image_BCYX.isfinite().flatten(1).all(dim=1).tolist()
        if not all(finite_B):
            raise NotFiniteImageError([row for row, is_finite in enumerate(finite_B) if not is_finite])
        return to_uint8(image_BCYX).permute(0, 2, 3, 1).cpu()


def open_decoder(
    config: ModelConfig,
    *,
    autoencoder: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Decoder:
    """Find what turns this model's latents into images.

    Args:
        config: The model.
        autoencoder: A folder, a file, a short name, or a hub name in the Hugging Face cache; None: the model's own.
        device: Where it runs.
        dtype: Type of its weights.

    Raises:
        ConfigError: If the model needs none, or the autoencoder makes latents of another shape.
        EnvironmentProblem: If it is not on this machine; nothing is downloaded.
    """
    if config.autoencoder is None:
        if autoencoder is not None:
            raise ConfigError("this model makes pixels, not latents", hint="leave --vae out")
        if config.in_channels not in (1, 3):
            raise ConfigError(f"a model of {config.in_channels} pixel channels makes no image (expected 1 or 3)")
        return PixelDecoder()
    name = autoencoder or config.autoencoder
    if name == SD_AUTOENCODER and config.in_channels != SD_CHANNELS:
        raise ConfigError(
            f"nothing tells the autoencoder of this model's latents of {config.in_channels} channels",
            hint="name it: --vae PATH",
        )
    loaded = load_autoencoder(name, device, dtype)
    _check_shape(loaded, name, config)
    return LatentDecoder(loaded, config, _decode_batch(config, torch.device(device)))


def _decode_batch(config: ModelConfig, device: torch.device) -> int:
    """Return how many latents are decoded together, by the number of pixels."""
    if device.type == "cpu":
        return 1
    return min(GPU_DECODE_BATCH, max(1, GPU_DECODE_PIXELS // config.resolution_px**2))


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentEncoder:
    """Turns images into what a diffusers `AutoencoderKL` says about their latents."""

    name: str
    """Folder or hub name it was opened by."""
    autoencoder: Any
    batch_size: int
    """Images of one call; a call always has this many, so that rounding does not depend on how many are left."""
    sha256: str
    """Hash of its weights, in the type they were loaded in."""

    @property
    def channels(self) -> int:
        """Latent channels C."""
        return int(self.autoencoder.config.latent_channels)

    @property
    def image_channels(self) -> int:
        """Channels of an image: 3 for RGB."""
        return int(self.autoencoder.config.in_channels)

    @property
    def stride(self) -> int:
        """Image pixels a latent pixel covers along one side."""
        return _stride(self.autoencoder)

    @property
    def scale(self) -> float:
        """Published factor of latents, applied after the shift."""
        return float(self.autoencoder.config.scaling_factor)

    @property
    def shift(self) -> float:
        """Published shift, subtracted from latents."""
        return float(getattr(self.autoencoder.config, "shift_factor", None) or 0.0)

    @torch.no_grad()
    def moments(self, pixels_BCYX: Tensor) -> Tensor:
        """Means and log-variances of the latents.

        Args:
            pixels_BCYX: (B, C, Y, X) float32 in [-1, 1]; the side is a multiple of `stride`.

        Returns:
            (B, 2 C, Y, X) float32 on the CPU, neither shifted nor scaled: means, then log-variances as diffusers
            clamps them.
        """
        parts = [self._encode(part_BCYX) for part_BCYX in pixels_BCYX.split(self.batch_size)]
        mean_BCYX, log_variance_BCYX = torch.cat(parts).chunk(2, dim=1)
        return torch.cat([mean_BCYX, log_variance_BCYX.clamp(*LOG_VARIANCE_RANGE)], dim=1).contiguous()

    def _encode(self, pixels_BCYX: Tensor) -> Tensor:
        num_images = len(pixels_BCYX)
        rows = torch.arange(self.batch_size).clamp(max=num_images - 1)
        batch_BCYX = pixels_BCYX[rows].to(device=self.autoencoder.device, dtype=self.autoencoder.dtype)
        moments_BCYX: Tensor = self.autoencoder.encode(batch_BCYX).latent_dist.parameters
        return moments_BCYX[:num_images].float().cpu()


def open_encoder(
    name: str,
    *,
    config: ModelConfig | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    batch_size: int | None = None,
) -> LatentEncoder:
    """Open an autoencoder to encode images.

    Args:
        name: A local folder, or a hub name that is in the Hugging Face cache.
        config: The model whose latents it shall make; None if any will do.
        device: Where it runs.
        dtype: Type of its weights.
        batch_size: Images of one call; None takes 1 on a CPU, which is as fast there, and `GPU_ENCODE_BATCH` elsewhere.

    Raises:
        ConfigError: If it makes latents of another shape than the model's.
        EnvironmentProblem: If it is not on this machine; nothing is downloaded.
    """
    loaded = load_autoencoder(name, device, dtype)
    if config is not None:
        _check_shape(loaded, name, config)
    usual = 1 if torch.device(device).type == "cpu" else GPU_ENCODE_BATCH
    return LatentEncoder(name=name, autoencoder=loaded, batch_size=batch_size or usual, sha256=_sha256(loaded))


def _sha256(autoencoder: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(autoencoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _stride(autoencoder: Any) -> int:
    """Each level but the last halves the image."""
    return int(2 ** (len(autoencoder.config.block_out_channels) - 1))


def _check_shape(autoencoder: Any, name: str, config: ModelConfig) -> None:
    channels, stride = autoencoder.config.latent_channels, _stride(autoencoder)
    if (channels, stride) != (config.in_channels, config.latent_downsample):
        raise ConfigError(
            f"the autoencoder {name} has {channels} channels at stride {stride}, "
            f"the model {config.in_channels} at stride {config.latent_downsample}",
            hint="pass the model's own autoencoder with --vae PATH",
        )
    if config.latent_mean:  # normalised by statistics instead of the autoencoder's factor
        return
    space = latent_space(name)
    for what, theirs, ours in (
        ("scale", space.scale, config.latent_scale),
        ("shift", space.shift, config.latent_shift),
    ):
        if theirs is not None and not math.isclose(theirs, ours, rel_tol=FACTOR_TOLERANCE, abs_tol=1e-9):
            raise ConfigError(
                f"the autoencoder {name} has latents of {what} {theirs:g}, the model was trained on {what} {ours:g}",
                hint="pass the model's own autoencoder with --vae PATH",
            )
