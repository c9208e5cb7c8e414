"""Stored latents: many in a safetensors shard, or one in each `.npy` file."""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from medcli.data.image_files import unreadable
from medcli.data.label_file import MAX_LABEL
from medcli.data.name_list import NameList
from medcli.data.npz import read_npy
from medcli.data.parallel_read import read_all
from medcli.errors import DataError
from medcli.runtime.files import file_end, require_regular

# Dimension key: N images, B images of a batch, R stored channels, Y X latent height and width.

LABELS_KEY = "labels"
ROWS_HASHED, FILES_HASHED = 4, 64
"""Rows of a shard, and files of a folder of them, whose values or last bytes are part of the fingerprint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRows:
    """Rows of safetensors files, mapped into memory: only the pages that are read are ever loaded."""

    path: Path
    files: tuple[Path, ...]
    starts: tuple[int, ...]
    """Number of the first image of each file."""
    rows: tuple[Tensor, ...]
    """(n, R, Y, X) of each file, mapped."""
    mirrored: tuple[Tensor, ...]
    """The same for the mirrored images; empty if there are none."""
    labels_N: npt.NDArray[np.int64]
    fingerprint: str

    @property
    def name(self) -> str:
        """Folder of the rows."""
        return str(self.path)

    @property
    def shape_RYX(self) -> tuple[int, int, int]:
        """Shape of a row."""
        channels, height, width = self.rows[0].shape[1:]
        return channels, height, width

    @property
    def has_flips(self) -> bool:
        """True if there are rows of mirrored images."""
        return bool(self.mirrored)

    def read(self, picks: list[int], flips: list[bool]) -> Tensor:
        """(B, R, Y, X) float32 rows, of the mirrored image where `flips` says so."""
        batch_BRYX = torch.empty(len(picks), *self.shape_RYX)
        for row_RYX, pick, flip in zip(batch_BRYX, picks, flips, strict=True):
            number, place = self._find(pick)
            row_RYX.copy_((self.mirrored if flip else self.rows)[number][place])
        return batch_BRYX

    def place(self, pick: int) -> str:
        """Return the file and row of an image."""
        number, place = self._find(pick)
        return f"row {place} of {self.files[number]}"

    def _find(self, pick: int) -> tuple[int, int]:
        number = bisect.bisect_right(self.starts, pick) - 1
        return number, pick - self.starts[number]


def open_shards(path: Path, files: Sequence[Path], rows_key: str, mirrored_key: str) -> ShardRows:
    """Map the tensors of shards into memory.

    Args:
        path: Their folder.
        files: The shards, in order; at least one.
        rows_key: Tensor of the images' rows.
        mirrored_key: Tensor of the mirrored images' rows, in every shard or in none.

    Raises:
        DataError: If a shard is damaged or its tensors don't fit together; it is named.
    """
    digest = hashlib.sha256()
    rows: list[Tensor] = []
    mirrored: list[Tensor] = []
    labels: list[npt.NDArray[np.int64]] = []
    for file in files:
        tensors = _map_shard(file, (rows_key, mirrored_key, LABELS_KEY))
        if missing := [key for key in (rows_key, LABELS_KEY) if key not in tensors]:
            raise DataError(f"{file} has no tensor {missing[0]}", hint="copy it again, or make it again")
        _check_shard(file, tensors, rows[0] if rows else tensors[rows_key])
        rows.append(tensors[rows_key])
        labels.append(_whole_labels(file, tensors[LABELS_KEY]))
        mirrored += [tensors[mirrored_key]] if mirrored_key in tensors else []
        digest.update(f"{file.name} {file.stat().st_size}".encode() + labels[-1].tobytes())
        for place in _spread(len(rows[-1]), ROWS_HASHED):
            digest.update(rows[-1][place].contiguous().view(torch.uint8).numpy().tobytes())
    if mirrored and len(mirrored) != len(files):
        raise DataError(f"{len(files) - len(mirrored)} shards of {path} have no {mirrored_key}", hint="make them again")
    counts = [len(tensor) for tensor in rows]
    return ShardRows(
        path=path,
        files=tuple(files),
        starts=tuple(accumulate(counts[:-1], initial=0)),
        rows=tuple(rows),
        mirrored=tuple(mirrored),
        labels_N=checked_labels(path, np.concatenate(labels)),
        fingerprint=digest.hexdigest(),
    )


def _whole_labels(file: Path, labels: Tensor) -> npt.NDArray[np.int64]:
    """Return labels as (N,) int64."""
    found = labels.reshape(-1)
    whole = found.to(torch.int64) if found.dtype not in (torch.bool,) and not found.is_complex() else None
    if whole is None or (bad := whole.to(found.dtype) != found).any() or not torch.isfinite(found.double()).all():
        shown = found.dtype if whole is None else found[bad][0].item() if bad.any() else "not finite"
        raise DataError(f"{file}: a label is {shown}, expected whole numbers from 0", hint="write the labels again")
    return whole.numpy()


def _map_shard(file: Path, keys: Sequence[str]) -> dict[str, Tensor]:
    """Map tensors of a file: they stay on disk until they are read."""
    require_regular(file)
    try:
        with safe_open(str(file), framework="pt") as shard:
            return {key: shard.get_tensor(key) for key in keys if key in shard.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as err:
        raise DataError(f"{file} is no whole safetensors file", hint="copy it again, or make it again") from err


def _check_shard(file: Path, tensors: dict[str, Tensor], first: Tensor) -> None:
    num_labels = tensors[LABELS_KEY].numel()
    for key, tensor in tensors.items():
        if key == LABELS_KEY:
            continue
        if tensor.ndim != 4 or len(tensor) != num_labels or tensor.shape[1:] != first.shape[1:]:
            raise DataError(
                f"{file}: {key} has shape {tuple(tensor.shape)}, expected {(num_labels, *first.shape[1:])}",
                hint="keep one set of shards in a folder",
            )
        if not tensor.is_floating_point():
            raise DataError(f"{file}: {key} has type {tensor.dtype}, expected floating point", hint="make it again")


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRows:
    """Rows of `.npy` files, one an image; nothing is mirrored."""

    path: Path
    names: NameList
    """Files, relative to the path."""
    labels_N: npt.NDArray[np.int64]
    shape_RYX: tuple[int, int, int]
    fingerprint: str
    has_flips: bool = False

    @property
    def name(self) -> str:
        """Folder of the rows."""
        return str(self.path)

    def read(self, picks: list[int], flips: list[bool]) -> Tensor:
        """(B, R, Y, X) float32 rows.

        Raises:
            DataError: If files are damaged or have another shape: how many, and the first.
        """
        files = [self.path / self.names[pick] for pick in picks]
        return torch.stack(read_all(self._read_one, files))

    def place(self, pick: int) -> str:
        """Return the file of an image."""
        return str(self.path / self.names[pick])

    def _read_one(self, file: Path) -> Tensor:
        array = read_npy(file)
        # fast-DiT keeps the batch axis of one.
        row = array[0] if array.ndim == 4 and len(array) == 1 else array
        if row.shape != self.shape_RYX or row.dtype.kind != "f":
            raise DataError(
                f"{file} holds {array.dtype} of shape {array.shape}, expected floats of shape {self.shape_RYX}",
                hint="keep latents of one resolution in a folder",
            )
        return torch.from_numpy(row.astype(np.float32))


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
    for place in _spread(len(names), FILES_HASHED):
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
    )


def _spread(count: int, most: int) -> list[int]:
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
