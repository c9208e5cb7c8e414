"""`latents.json`: settings and statistics of a folder of latents."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from medcli.data.latent_shards import ShardRows, open_shards
from medcli.errors import DataError
from medcli.runtime.files import write_text
from medcli.runtime.json_records import InvalidJson, as_record, read_json
from medcli.version import __version__

INDEX = "latents.json"
SHARD = re.compile(r"latents-[0-9]{5,}\.safetensors")
"""Names of shards."""
FORMAT_VERSION = 1
MOMENTS = "moments"
"""Tensor of a shard: (n, 2 C, Y, X), means and then log-variances."""
MIRRORED = "moments_flip"
"""The same for the mirrored images."""
MAX_IMAGES, MAX_SIDE = 10**10, 10**6

AGAIN = "make the latents again with medcli latents"


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentIndex:
    """Settings and statistics of a folder of latents."""

    source: str
    """Path of the images."""
    source_fingerprint: str
    """SHA-256 of the image set (`ImageListing.fingerprint`)."""
    num_images: int = field(metadata={"min": 1, "max": MAX_IMAGES})
    num_classes: int = field(metadata={"min": 1, "max": MAX_IMAGES})
    shape: tuple[int, int, int] = field(metadata={"min": 1, "max": MAX_SIDE})
    """(C, Y, X) of a latent."""
    resolution_px: int = field(metadata={"min": 1, "max": MAX_SIDE})
    """Side of the image it was made of."""
    autoencoder: str
    """Folder or hub name."""
    autoencoder_sha256: str
    """Hash of its weights."""
    dtype: Literal["fp32", "tf32", "bf16", "fp16"]
    """`fp32` or `bf16`: the type it ran in."""
    storage: Literal["fp32", "fp16"]
    """`fp32` or `fp16`: the type of the rows."""
    flip: bool
    """True if mirrored images are encoded too."""
    scale: float = field(metadata={"above": 0})
    """Factor applied after the shift in training; rows are stored without either."""
    shift: float
    shard_size: int = field(metadata={"min": 1, "max": MAX_IMAGES})
    """Images of a shard; the last may have fewer."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel of the scaled latents; None until all shards exist."""
    std: tuple[float, ...] | None = field(default=None, metadata={"min": 0})
    """Their standard deviations, noise of the posterior included."""
    class_names: tuple[str, ...] = ()
    """Names of the class folders; empty if a file gave the labels."""

    @property
    def num_shards(self) -> int:
        """Shards of the whole set."""
        return -(-self.num_images // self.shard_size)

    @property
    def is_complete(self) -> bool:
        """True once the statistics of all shards are known."""
        return self.std is not None

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that runs on one folder must share; paths may differ."""
        free = ("source", "autoencoder", "mean", "std", "class_names")  # the fingerprint is of paths, so of these names
        return {key: value for key, value in self._values().items() if key not in free}

    @property
    def identity(self) -> str:
        """SHA-256 of the settings; each shard carries it."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def shard_path(self, folder: Path, number: int) -> Path:
        """Return the path of a shard."""
        return folder / f"latents-{number:05d}.safetensors"

    def write(self, folder: Path) -> None:
        """Write `latents.json` atomically.

        Raises:
            EnvironmentProblem: If the place can't be written to or is full.
        """
        values = {"format_version": FORMAT_VERSION, "medcli_version": __version__, **self._values()}
        text = json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n"
        write_text(folder / INDEX, text, force=True, is_durable=True)

    def _values(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def read_index(folder: Path) -> LatentIndex | None:
    """Read `latents.json`; None if there is none.

    Raises:
        DataError: If that file is damaged or of a newer medcli.
    """
    path = folder / INDEX
    if not path.is_file():
        return None
    try:
        values = read_json(path)
        if not isinstance(values, dict):
            raise InvalidJson("no object")
        if (version := values.get("format_version")) != FORMAT_VERSION:
            raise DataError(f"{path} has version {version!r:.40}, expected {FORMAT_VERSION}", hint="use a newer medcli")
        index = as_record(LatentIndex, values, ignore_unknown=True)
    except (OSError, InvalidJson) as err:
        raise DataError(f"{path} is damaged: {err}", hint=AGAIN) from err
    if not is_std_of(index):
        raise DataError(f"{path} is damaged: mean or std is not of {index.shape[0]} channels", hint=AGAIN)
    return index


def is_std_of(index: LatentIndex) -> bool:
    """Return True if both statistics, or neither, are there, of the latents' channels."""
    if index.mean is None or index.std is None:
        return index.mean is index.std
    return len(index.mean) == len(index.std) == index.shape[0]


def open_store(folder: Path, index: LatentIndex) -> ShardRows:
    """Open the shards of a finished folder.

    Raises:
        DataError: If it is not finished, or shards are missing, damaged or of another run.
    """
    files = [index.shard_path(folder, number) for number in range(index.num_shards)]
    names = set(os.listdir(folder))  # one call of the system for thousands of shards
    missing = [file.name for file in files if file.name not in names]
    if missing or not index.is_complete:
        there = index.num_shards - len(missing)
        raise DataError(
            f"{folder} is not finished: {there} of {index.num_shards} shards are there",
            hint="run the medcli latents command that began it again",
        )
    rows = open_shards(folder, files, MOMENTS, MIRRORED)
    channels, height, width = index.shape
    promised = (index.num_images, (2 * channels, height, width), index.flip)
    if (len(rows.labels_N), rows.shape_RYX, rows.has_flips) != promised:
        raise DataError(f"the shards of {folder} are not what its {INDEX} says", hint=AGAIN)
    return rows
