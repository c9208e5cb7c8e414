"""Final latents of `medcli sample --latents`: one `.npy` file an image, and their labels.

000000.npy ...   (C, Y, X) float32 as the sampler ended with it: scaled latents, or pixels in [-1, 1]
sampled.json     shape, latent space and the label of each image; written when the folder is complete
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from medcli.config import ModelConfig
from medcli.data.latent_rows import FileRows, open_files
from medcli.data.name_list import NameList
from medcli.errors import ConfigError, DataError
from medcli.runtime.files import write_bytes, write_text
from medcli.runtime.json_records import InvalidJson, as_record, read_json

FOLDER = "latents"
"""Folder within a sample folder."""
INDEX = "sampled.json"
FORMAT_VERSION = 1
MAX_IMAGES, MAX_SIDE, MAX_LABEL = 10**8, 10**6, 2**31 - 1
AGAIN = "run the medcli sample --latents command again"


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledIndex:
    """Contents of `sampled.json`."""

    shape: tuple[int, int, int] = field(metadata={"min": 1, "max": MAX_SIDE})
    """(C, Y, X) of a row."""
    is_pixels: bool
    """True if the model that made them has no autoencoder."""
    scale: float = field(metadata={"above": 0})
    """Factor of the model's latents, which the rows have been multiplied by."""
    shift: float
    """Number that was subtracted before."""
    images: tuple[int, ...] = field(metadata={"min": 0, "max": MAX_IMAGES})
    """Numbers of the images, rising."""
    labels: tuple[int, ...] = field(metadata={"min": 0, "max": MAX_LABEL})
    """Class of each image."""
    class_names: tuple[str, ...] = ()
    """Name of each class of the model; empty if it has none."""


@dataclass(frozen=True, slots=True)
class SampledLatents:
    """Rows that a sampling run writes; threads may add some at once."""

    path: Path
    config: ModelConfig

    @classmethod
    def beside(cls, samples: Path, config: ModelConfig, *, is_asked: bool, has_images: bool) -> SampledLatents | None:
        """Return the latents of a sample folder; None if they are not asked for and no earlier run has begun them.

        Args:
            samples: The sample folder.
            config: The model that makes them.
            is_asked: The value of `--latents`.
            has_images: The folder holds finished images.

        Raises:
            ConfigError: If earlier images were made without their latents.
        """
        path = samples / FOLDER
        if is_asked and has_images and not path.is_dir():
            raise ConfigError(
                f"{samples} holds images whose latents were not kept", hint="sample to another folder with --output"
            )
        return cls(path, config) if is_asked or path.is_dir() else None

    def add(self, index: int, latent_CYX: Tensor) -> None:
        """Write the row of an image, whole or not at all."""
        content = io.BytesIO()
        np.lib.format.write_array(content, latent_CYX.detach().float().cpu().numpy(), version=(1, 0))
        write_bytes(self.path / row_name(index), content.getvalue(), force=True)

    def holds(self, index: int) -> bool:
        """Return True if there is a row of an image, judged by its size."""
        row = np.zeros(_shape(self.config), np.float32)
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(row))
        try:
            return os.stat(self.path / row_name(index)).st_size == len(head.getvalue()) + row.nbytes
        except OSError:
            return False

    def complete(self, labels: Iterable[tuple[int, int]], class_names: tuple[str, ...]) -> None:
        """Write the index of all rows, from which time they can be read.

        Args:
            labels: Number and class of each image, in any order.
            class_names: Name of each class of the model.
        """
        pairs = sorted(labels)
        config = self.config
        index = SampledIndex(
            shape=_shape(config),
            is_pixels=config.autoencoder is None,
            scale=config.latent_scale,
            shift=config.latent_shift,
            images=tuple(number for number, _ in pairs),
            labels=tuple(label for _, label in pairs),
            class_names=class_names,
        )
        text = json.dumps({"format_version": FORMAT_VERSION, **asdict(index)}, sort_keys=True)
        write_text(self.path / INDEX, text + "\n", force=True)


def row_name(index: int) -> str:
    """Return the name of an image's row."""
    return f"{index:06d}.npy"


def find_sampled(path: Path) -> Path | None:
    """Return the folder of sampled latents that a path names itself or as its sample folder; None if it is none."""
    return next((folder for folder in (path, path / FOLDER) if (folder / INDEX).is_file()), None)


def read_sampled(folder: Path) -> tuple[SampledIndex, FileRows]:
    """Open a complete folder of sampled latents.

    Raises:
        DataError: If its index or its first row is damaged, or rows are missing.
    """
    file = folder / INDEX
    try:
        values = read_json(file)
        if not isinstance(values, dict) or (version := values.get("format_version")) != FORMAT_VERSION:
            raise InvalidJson(f"version {version!r:.40}" if isinstance(values, dict) else "no object")
        index = as_record(SampledIndex, values, ignore_unknown=True)
        if len(index.images) != len(index.labels):
            raise InvalidJson(f"{len(index.images)} images, {len(index.labels)} labels")
    except (OSError, InvalidJson) as err:
        raise DataError(f"{file} is damaged: {err}", hint=AGAIN) from err
    names = [row_name(image) for image in index.images]
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise DataError(
            f"{len(missing)} of the {len(names)} latents of {folder} are missing, the first is {missing[0]}", hint=AGAIN
        )
    if not names:
        raise DataError(f"{folder} holds no latents", hint=AGAIN)
    rows = open_files(folder, NameList(names), np.array(index.labels, dtype=np.int64))
    if rows.shape_RYX != index.shape:
        raise DataError(f"the rows of {folder} have shape {rows.shape_RYX}, not {index.shape}", hint=AGAIN)
    return index, rows


def _shape(config: ModelConfig) -> tuple[int, int, int]:
    return config.in_channels, config.latent_size, config.latent_size
