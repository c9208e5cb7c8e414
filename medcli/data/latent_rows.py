"""Stored latents, one in each `.npy` file, and what all kinds of stored latents share."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medcli.data.image_files import unreadable
from medcli.data.label_file import MAX_LABEL
from medcli.data.name_list import NameList
from medcli.data.npz import read_npy
from medcli.data.read_ahead import ReadAhead
from medcli.errors import DataError
from medcli.runtime.files import file_end

# Dimension key: N images, B images of a batch, R stored channels, Y X latent height and width.

FLOAT_BYTES = 4
FILES_HASHED = 64
"""Files of a folder whose last bytes are part of the fingerprint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRows:
    """Rows of `.npy` files, one an image; nothing is mirrored."""

    path: Path
    names: NameList
    """Files, relative to the path."""
    labels_N: npt.NDArray[np.int64]
    shape_RYX: tuple[int, int, int]
    fingerprint: str
    ahead: ReadAhead[Path]
    has_flips: bool = False

    @property
    def name(self) -> str:
        """Folder of the rows."""
        return str(self.path)

    def expect(self, picks: list[int], flips: list[bool]) -> None:
        """Begin to read what `read` will be called for."""
        self.ahead.expect(self._files(picks))

    def read(self, picks: list[int], flips: list[bool]) -> Tensor:
        """(B, R, Y, X) float32 rows.

        Raises:
            DataError: If files are damaged or have another shape: how many, and the first.
        """
        return torch.from_numpy(self.ahead.read(self._files(picks)).view(np.float32)).view(-1, *self.shape_RYX)

    def place(self, pick: int) -> str:
        """Return the file of an image."""
        return str(self.path / self.names[pick])

    def _files(self, picks: list[int]) -> list[Path]:
        return [self.path / self.names[pick] for pick in picks]


def _read_row(shape_RYX: tuple[int, int, int], file: Path, content: memoryview) -> None:
    """Fill `content` with the float32 row of a file."""
    array = read_npy(file)
    # fast-DiT keeps the batch axis of one.
    row = array[0] if array.ndim == 4 and len(array) == 1 else array
    if row.shape != shape_RYX or row.dtype.kind != "f":
        raise DataError(
            f"{file} holds {array.dtype} of shape {array.shape}, expected floats of shape {shape_RYX}",
            hint="keep latents of one resolution in a folder",
        )
    with np.errstate(over="ignore"):  # what becomes infinite is refused when it is drawn
        np.frombuffer(content, np.float32).reshape(shape_RYX)[:] = row


def open_files(path: Path, names: NameList, labels_N: npt.NDArray[np.int64]) -> FileRows:
    """Open `.npy` files as rows; the first gives the shape.

    Raises:
        DataError: If the first is damaged or no latent, or labels are negative.
    """
    first = read_npy(path / names[0])
    if first.ndim not in (3, 4) or (first.ndim == 4 and len(first) != 1):
        raise DataError(
            f"{path / names[0]} has shape {first.shape}, expected (channels, height, width)",
            hint="one latent a file, with or without a batch axis of one",
        )
    channels, height, width = first.shape[-3:]
    digest = hashlib.sha256()
    for part in (*names.digest_parts(), labels_N.tobytes(), repr(first.shape).encode()):
        digest.update(part)
    for place in sampled_places(len(names), FILES_HASHED):
        try:
            digest.update(file_end(path / names[place]))
        except OSError as err:
            raise unreadable(path / names[place], err) from err
    return FileRows(
        path=path,
        names=names,
        labels_N=checked_labels(path, labels_N),
        shape_RYX=(channels, height, width),
        fingerprint=digest.hexdigest(),
        ahead=ReadAhead(partial(_read_row, (channels, height, width)), FLOAT_BYTES * math.prod(first.shape)),
    )


def sampled_places(count: int, most: int) -> list[int]:
    """Return up to `most` evenly spaced places of `count`, the last among them."""
    return [count - 1 - place * count // most for place in range(most)] if count > most else list(range(count))


def checked_labels(path: Path, labels_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Refuse an empty set, and labels outside 0..2^31.

    Raises:
        DataError: Naming the folder.
    """
    if not len(labels_N):
        raise DataError(f"{path} holds no latents", hint="make them with medcli latents")
    for label in (int(labels_N.min()), int(labels_N.max())):
        if not 0 <= label < MAX_LABEL:
            raise DataError(f"{path} holds the label {label}, expected classes from 0", hint="write the labels again")
    return labels_N
