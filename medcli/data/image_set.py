"""Training sets of image files, cropped as the references do: as pixels, or encoded when read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from medcli.data.autoencoder import LatentEncoder
from medcli.data.image_files import MAX_PIXELS, read_image
from medcli.data.image_listing import ImageListing
from medcli.data.images import center_crop
from medcli.data.latent_statistics import NO_STATISTICS, Statistics, normalised
from medcli.data.parallel_read import read_all
from medcli.data.posterior import draw_latents
from medcli.data.training_set import flip_coins
from medcli.errors import DataError

# Dimension key: B images, C channels, Y X height and width.


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelSet:
    """Image files as pixels in [-1, 1], for models without an autoencoder."""

    name: str
    listing: ImageListing
    channels: int
    """3 for RGB, 1 for grey."""
    side_px: int
    """Side of the square that is cut out."""
    flip: bool = True
    """Mirror half of all draws."""

    @property
    def num_images(self) -> int:
        """Number of images, N."""
        return self.listing.num_images

    @property
    def num_classes(self) -> int:
        """One more than the largest label."""
        return self.listing.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class; empty if they have none."""
        return self.listing.class_names

    @property
    def shape_CYX(self) -> tuple[int, int, int]:
        """Shape of one image."""
        return self.channels, self.side_px, self.side_px

    @property
    def fingerprint(self) -> str:
        """SHA-256 of names, labels, and sizes and ends of a sample of the files."""
        return self.listing.fingerprint

    def read(self, pick_B: Tensor, position_B: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Pixels (B, C, Y, X) float32 in [-1, 1] and labels (B,) int64.

        Raises:
            DataError: If images are damaged: how many of these, and the first.
        """
        picks = pick_B.tolist()
        pixels_BCYX = read_pixels([self.listing.path(pick) for pick in picks], self.side_px, self.channels)
        if self.flip:
            coins_B = flip_coins(position_B, seed)
            pixels_BCYX[coins_B] = pixels_BCYX[coins_B].flip(-1)
        return pixels_BCYX, torch.from_numpy(self.listing.labels_N[picks])


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedSet:
    """Image files encoded each time they are read, for models of latents."""

    pixels: PixelSet
    encoder: LatentEncoder
    scale: float
    shift: float
    statistics: Statistics = NO_STATISTICS

    @property
    def name(self) -> str:
        """Name in messages and reports."""
        return self.pixels.name

    @property
    def num_images(self) -> int:
        """Number of images, N."""
        return self.pixels.num_images

    @property
    def num_classes(self) -> int:
        """One more than the largest label."""
        return self.pixels.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class; empty if they have none."""
        return self.pixels.class_names

    @property
    def shape_CYX(self) -> tuple[int, int, int]:
        """Shape of one latent."""
        side = self.pixels.side_px // self.encoder.stride
        return self.encoder.channels, side, side

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the fingerprints of images and autoencoder."""
        return hashlib.sha256(f"{self.pixels.fingerprint} {self.encoder.sha256}".encode()).hexdigest()

    def read(self, pick_B: Tensor, position_B: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Scaled samples of the autoencoder's posterior (B, C, Y, X) float32, and labels (B,) int64.

        Raises:
            DataError: If images are damaged: how many of these, and the first.
        """
        pixels_BCYX, labels_B = self.pixels.read(pick_B, position_B, seed)
        mean_BCYX, log_variance_BCYX = self.encoder.moments(pixels_BCYX).chunk(2, dim=1)
        latents_BCYX = draw_latents(mean_BCYX, torch.exp(0.5 * log_variance_BCYX), position_B, seed)
        return (normalised(latents_BCYX, self.statistics) - self.shift) * self.scale, labels_B


def read_pixels(files: Sequence[Path], side_px: int, channels: int) -> Tensor:
    """Read and crop images as inputs of a network; see `read_squares` and `network_inputs`."""
    return network_inputs(read_squares(files, side_px, channels))


def network_inputs(levels_BCYX: Tensor) -> Tensor:
    """Convert uint8 levels to float32 in [-1, 1], computed as the references do: (level / 255 - 0.5) / 0.5."""
    return levels_BCYX.float().div(255).sub(0.5).div(0.5)


def read_squares(files: Sequence[Path], side_px: int, channels: int) -> Tensor:
    """Read and crop images, several at once.

    Args:
        files: Image files.
        side_px: Side of the square, in pixels.
        channels: 3 for RGB, 1 for grey.

    Returns:
        (B, C, Y, X) uint8.

    Raises:
        DataError: If images are damaged: how many, and the first.
    """

    def read(file: Path) -> Tensor:
        def square(image: Image.Image) -> npt.NDArray[np.uint8]:
            short, long = sorted(image.size)
            if long * side_px * side_px > MAX_PIXELS * short:
                raise DataError(f"{file} is too narrow to scale to {side_px} px: {short} by {long}", hint="remove it")
            return center_crop(image, side_px)

        square_YXC, _ = read_image(file, square)
        if channels == 1:
            square_YXC = np.asarray(Image.fromarray(square_YXC).convert("L"))[..., None]
        return torch.from_numpy(square_YXC.transpose(2, 0, 1).copy())

    return torch.stack(read_all(read, files))
