"""Images of a bundle: its training set, and real pictures beside samples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from medcli.data.assets import IMAGES, asset_path
from medcli.data.npz import npz_keys, read_array
from medcli.data.training_set import ArraySet

LEVELS = 255
"""Brightest level, where the file does not say."""


class BundledImages(NamedTuple):
    """Contents of a bundle's file of images."""

    images: npt.NDArray[np.uint8]
    """(N, Y, X, C), C = 1 or 3: levels 0 .. `max_level`."""
    labels: npt.NDArray[np.uint8]
    """(N,)"""
    max_level: int

    def latents(self) -> npt.NDArray[np.float32]:
        """Return the images as inputs of a model of pixels, (N, C, Y, X) float32 in [-1, 1]."""
        return self.images.astype(np.float32).transpose(0, 3, 1, 2) / np.float32(self.max_level / 2) - 1


def bundled_images(bundle: str) -> BundledImages:
    """Read the images of a bundle.

    Raises:
        DataError: If the file is damaged.
        EnvironmentProblem: If the installation lacks it.
    """
    path = asset_path(f"{bundle}{IMAGES}")
    images, labels = (read_array(path, key).astype(np.uint8) for key in ("images", "labels"))
    level = int(read_array(path, "max_level")) if "max_level" in npz_keys(path) else LEVELS
    return BundledImages(images if images.ndim == 4 else images[..., None], labels, level)


def bundled_set(bundle: str) -> ArraySet:
    """Return the images of a bundle as a training set of pixels; they are never mirrored."""
    found = bundled_images(bundle)
    return ArraySet(bundle, torch.from_numpy(found.latents()), torch.from_numpy(found.labels.astype(np.int64)))


def bundled_pixels(bundle: str) -> npt.NDArray[np.uint8]:
    """Return the images of a bundle as `sample` writes images: (N, Y, X, 3) uint8."""
    pixels = np.clip(127.5 * bundled_images(bundle).latents() + 128, 0, 255).astype(np.uint8)
    return np.repeat(pixels, 3 // pixels.shape[1], axis=1).transpose(0, 2, 3, 1)
