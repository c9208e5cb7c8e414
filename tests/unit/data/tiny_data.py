"""Tiny image folders, an autoencoder and stores of latents for tests."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from medcli.config import ModelConfig
from medcli.data.latent_index import MIRRORED, MOMENTS, LatentIndex

PIXELS = ModelConfig(
    family="sit",
    hidden_size=16,
    depth=1,
    num_heads=2,
    latent_size=8,
    in_channels=3,
    num_classes=3,
    autoencoder=None,
    latent_downsample=1,
    latent_scale=1.0,
)
LATENTS = ModelConfig(family="sit", hidden_size=16, depth=1, num_heads=2, latent_size=4, num_classes=3)
RES = LATENTS.resolution_px


@dataclass
class Notes:
    """A reporter that remembers."""

    texts: list[str] = field(default_factory=list)
    reports: list[tuple[float, int, str]] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.texts.append(text)

    warn = note

    def progress(self, done: float, total: int, unit: str, detail: str = "") -> None:
        self.reports.append((done, total, unit))


def levels(number: int, size: tuple[int, int] = (32, 32)) -> npt.NDArray[np.uint8]:
    """(height, width, 3) noise of its own for each number."""
    return np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)


def save_image(path: Path, number: int = 0, size: tuple[int, int] = (32, 32)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels(number, size)).save(path)
    return path


def save_classes(root: Path, counts: dict[str, int], size: tuple[int, int] = (32, 32)) -> Path:
    """Folders of images, numbered on over all of them."""
    number = 0
    for name, count in counts.items():
        for place in range(count):
            save_image(root / name / f"{place}.png", number, size)
            number += 1
    return root


def moments_of(num_images: int, shape: tuple[int, int, int] = (4, 4, 4), seed: int = 0) -> Tensor:
    """(N, 2 C, Y, X) means that scale to a deviation of one, and small log-variances."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(num_images, *shape, generator=generator) / LATENTS.latent_scale
    return torch.cat([mean, torch.randn(num_images, *shape, generator=generator) - 3], dim=1)


def save_store(folder: Path, labels: list[int], *, shard_size: int = 4, flip: bool = True, **changes: object) -> Path:
    """A finished folder of latents, as `medcli latents` would have made it."""
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, object] = {
        "source": "photos",
        "source_fingerprint": "0" * 64,
        "num_images": len(labels),
        "num_classes": max(labels) + 1,
        "shape": (4, 4, 4),
        "resolution_px": RES,
        "autoencoder": "vae",
        "autoencoder_sha256": "1" * 64,
        "dtype": "fp32",
        "storage": "fp32",
        "flip": flip,
        "scale": LATENTS.latent_scale,
        "shift": 0.0,
        "shard_size": shard_size,
        "mean": (0.0,) * 4,
        "std": (1.0,) * 4,
    }
    index = LatentIndex(**{**values, **changes})  # type: ignore[arg-type]
    moments, mirrored = moments_of(len(labels)), moments_of(len(labels), seed=1)
    for number in range(index.num_shards):
        rows = slice(number * shard_size, (number + 1) * shard_size)
        tensors = {MOMENTS: moments[rows].contiguous(), "labels": torch.tensor(labels[rows])}
        if flip:
            tensors[MIRRORED] = mirrored[rows].contiguous()
        save_file(tensors, index.shard_path(folder, number))
    index.write(folder)
    return folder


def save_labels(path: Path, labels: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(labels if isinstance(labels, str) else json.dumps(labels))
    return path
