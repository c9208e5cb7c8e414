"""The bundled data set: 1,797 real hand-written digits of 8 x 8 pixels.

Source: UCI "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak), test part, CC BY 4.0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file

from medcli.data.assets import asset_path
from medcli.data.training_set import ArraySet

DIGITS = "digits"
"""Name of the set on the command line."""

IMAGES = "digits.safetensors"
"""The bundled file."""

MAX_LEVEL = 16
"""Brightest level of the original files; 0 is background."""


def load_digits() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Images (1797, 8, 8) uint8 with levels 0..16, and labels (1797,) uint8."""
    tensors = load_file(asset_path(IMAGES))
    return tensors["images"], tensors["labels"]


def digit_latents() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return the digits as inputs of a pixel-space model: (1797, 1, 8, 8) float32 in [-1, 1], and int64 labels."""
    images, labels = load_digits()
    pixels = images.astype(np.float32)[:, None] / (MAX_LEVEL / 2) - 1
    return pixels, labels.astype(np.int64)


def digit_set() -> ArraySet:
    """Return the digits as a training set of (1, 8, 8) pixels; they are never mirrored."""
    pixels, labels = digit_latents()
    return ArraySet(DIGITS, torch.from_numpy(pixels), torch.from_numpy(labels))


def digit_pixels() -> npt.NDArray[np.uint8]:
    """Return the digits as `sample` writes images: (1797, 8, 8, 3) uint8."""
    latents, _ = digit_latents()
    grey = np.clip(127.5 * latents[:, 0] + 128, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)
