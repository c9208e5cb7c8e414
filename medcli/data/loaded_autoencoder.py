"""Open an autoencoder by folder, file or name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medcli.data.autoencoder_file import load_network
from medcli.data.latent_space import LatentSpace, autoencoder_config, autoencoder_place, latent_space
from medcli.runtime.extras import require_extra

# Dimension key: B images, C latent channels, Y X height and width.


def load_autoencoder(name: str, device: torch.device | str, dtype: torch.dtype) -> Any:
    """Read an autoencoder, a diffusers `AutoencoderKL`, without touching the network.

    Raises:
        EnvironmentProblem: If it is not on this machine, or no usable autoencoder, or diffusers is not installed.
    """
    require_extra("diffusers")
    latent_space(name)
    place = autoencoder_place(name)
    loaded = load_network(place, autoencoder_config(place), dtype)
    # Convolutions are its cost, and those run faster channels last.
    return loaded.eval().requires_grad_(False).to(device=device, memory_format=torch.channels_last)


@dataclass(frozen=True, slots=True)
class Autoencoder:
    """An autoencoder by itself: what `medcli.load_autoencoder` returns."""

    network: Any
    """The diffusers `AutoencoderKL`."""
    space: LatentSpace
    """Channels and stride of its latents, and the factors they are used with."""

    @classmethod
    def open(cls, name: str, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Autoencoder:
        """Open an autoencoder by folder, file or name; see `medcli.load_autoencoder`.

        Raises:
            EnvironmentProblem: If it is not on this machine, or no usable autoencoder.
        """
        return cls(load_autoencoder(name, device, dtype), latent_space(name))

    @torch.no_grad()
    def encode(self, images_BCYX: Tensor) -> Tensor:
        """Return the means of the posterior, (B, C, Y, X) float32, unscaled, of images in [-1, 1]."""
        images_BCYX = images_BCYX.to(device=self.network.device, dtype=self.network.dtype)
        means_BCYX: Tensor = self.network.encode(images_BCYX).latent_dist.mean
        return means_BCYX.float()

    @torch.no_grad()
    def decode(self, latents_BCYX: Tensor) -> Tensor:
        """Return images in about [-1, 1], (B, 3, Y, X) float32, of unscaled latents."""
        latents_BCYX = latents_BCYX.to(device=self.network.device, dtype=self.network.dtype)
        images_BCYX: Tensor = self.network.decode(latents_BCYX).sample
        return images_BCYX.float()
