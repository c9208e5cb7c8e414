"""Latent folders of other projects, recognised by their content.

Written from facts about fast-DiT (`extract_features.py`), REPA (`preprocessing/dataset_tools.py`, `train.py`) and
LightningDiT (`extract_features.py`, `datasets/img_latent_dataset.py`); docs/data.md has them in a table. Nothing is
unpickled.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from medcli.checkpoint.lightningdit import STATISTICS, read_statistics
from medcli.config import SD_SCALE
from medcli.data.image_files import unreadable
from medcli.data.label_file import MAX_LABEL, read_labels
from medcli.data.latent_rows import open_files
from medcli.data.latent_set import Content, StoredRows
from medcli.data.latent_shards import LABELS_KEY, open_shards
from medcli.data.latent_statistics import NO_STATISTICS, Statistics
from medcli.data.name_list import NameList
from medcli.data.npz import read_npy
from medcli.data.parallel_read import read_all
from medcli.errors import CheckpointError, DataError
from medcli.runtime.reporting import Reporter

REPA_FOLDER = "vae-sd"
"""Folder beside `images` with the moments and their `dataset.json`."""
REPA_LABELS = "dataset.json"
NUM_STDS_CHECKED = 16

LIGHTNING_KEYS = ("latents", "latents_flip")

CHUNK = 10_000
"""Label files read between progress reports."""
LABEL_BYTES = 4096
"""Bytes of a label's file that are read at first; real ones have 136."""
GROUP = 100
"""Label files read by a thread at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExternalLatents:
    """An open latent folder of another project."""

    rows: StoredRows
    content: Content
    stored_scale: float
    """Factor that the rows were multiplied by."""
    statistics: Statistics = NO_STATISTICS
    """Statistics of the rows that the folder holds."""


def open_external(path: Path, reporter: Reporter) -> ExternalLatents | None:
    """Open a folder of a known layout; None if its layout is another.

    Raises:
        DataError: If it is, and files are missing or damaged.
    """
    if pair := _fast_dit_folders(path):
        return _open_fast_dit(path, *pair, reporter)
    for folder in (path / REPA_FOLDER, path):
        if _is_repa(folder):
            return _open_repa(folder)
    shards = sorted(path.glob("*.safetensors"))
    return _open_lightning(path, shards) if shards and is_lightning(shards[0]) else None


def _fast_dit_folders(path: Path) -> tuple[Path, Path] | None:
    """Return the folders of latents and labels, such as `imagenet256_features` and `imagenet256_labels`."""
    for features in sorted(path.glob("*_features")):
        labels = features.with_name(features.name.removesuffix("_features") + "_labels")
        if features.is_dir() and labels.is_dir() and any(name.endswith(".npy") for name in _names_in(features)):
            return features, labels
    return None


def _open_fast_dit(path: Path, features: Path, labels: Path, reporter: Reporter) -> ExternalLatents:
    """Open files with one scaled posterior sample each, and label files of the same names."""
    names = sorted(name for name in _names_in(features) if name.endswith(".npy"))
    if missing := sorted(set(names) - set(_names_in(labels))):
        raise DataError(
            f"{len(missing)} of the {len(names)} latents of {path} have no label, the first is {missing[0]}",
            hint=f"each file of {features.name} needs one of the same name in {labels.name}",
        )
    labels_N = _read_label_files([labels / name for name in names], reporter)
    files = NameList(f"{features.name}/{name}" for name in names)
    return ExternalLatents(rows=open_files(path, files, labels_N), content=Content.LATENT, stored_scale=SD_SCALE)


def _read_label_files(files: list[Path], reporter: Reporter) -> npt.NDArray[np.int64]:
    """Read the number in each file."""
    # There may be a million: files with the same header as the first are not parsed.
    header = _small(files[0])[:-8]
    is_plain = b"'<i8'" in header and b"'shape': (1,)" in header

    def read(part: list[Path]) -> list[int]:
        return [_label_behind(header, file) if is_plain else _read_label(file) for file in part]

    labels: list[int] = []
    for start in range(0, len(files), CHUNK):
        chunk = files[start : start + CHUNK]
        for part in read_all(read, [chunk[place : place + GROUP] for place in range(0, len(chunk), GROUP)]):
            labels += part
        reporter.progress(len(labels), len(files), "labels")
    return np.array(labels, dtype=np.int64)


def _small(file: Path) -> bytes:
    """Return the content of a file, whose first bytes tell if it is longer than a label's."""
    try:
        with file.open("rb") as opened:
            return opened.read(LABEL_BYTES)
    except OSError as err:
        raise unreadable(file, err) from err


def _label_behind(header: bytes, file: Path) -> int:
    content = _small(file)
    return int.from_bytes(content[-8:], "little", signed=True) if content[:-8] == header else _read_label(file)


def _read_label(file: Path) -> int:
    array: npt.NDArray[np.generic] = read_npy(file)
    if array.size != 1 or array.dtype.kind not in "iu" or not 0 <= int(array.reshape(-1)[0]) < MAX_LABEL:
        raise DataError(
            f"{file} holds {array.dtype} of shape {array.shape}, expected one whole number from 0",
            hint="write it again",
        )
    return int(array.reshape(-1)[0])


def _is_repa(folder: Path) -> bool:
    """Return True if the label file lists `.npy` files rather than images."""
    if not (folder / REPA_LABELS).is_file():
        return False
    with (folder / REPA_LABELS).open("rb") as file:
        start = file.read(1000)
    return b".npy" in start


def _open_repa(folder: Path) -> ExternalLatents:
    """Open files of unscaled means and standard deviations, stacked; EDM2 writes the same."""
    labels = read_labels(folder / REPA_LABELS)
    if missing := [name for name in labels if not (folder / name).is_file()]:
        raise DataError(
            f"{len(missing)} of the {len(labels)} files {folder / REPA_LABELS} names are missing, "
            f"the first is {missing[0]}",
            hint=f"paths are relative to {folder}",
        )
    rows = open_files(folder, NameList(labels), np.fromiter(labels.values(), dtype=np.int64, count=len(labels)))
    picks = [place * len(labels) // NUM_STDS_CHECKED for place in range(NUM_STDS_CHECKED)]
    _, std_BCYX = rows.read(picks, [False] * len(picks)).chunk(2, dim=1)
    if rows.shape_RYX[0] % 2 or bool((std_BCYX < 0).any()):
        raise DataError(
            f"{folder} holds no means and standard deviations: the second half of the channels is negative or missing",
            hint="expected what REPA's preprocessing writes; or make them again with medcli latents",
        )
    return ExternalLatents(rows=rows, content=Content.MEAN_STD, stored_scale=1.0)


def is_lightning(shard: Path) -> bool:
    """Check for a shard of LightningDiT's latents."""
    if not shard.is_file():
        return False
    try:
        with safe_open(str(shard), framework="pt") as opened:
            return {LIGHTNING_KEYS[0], LABELS_KEY} <= set(opened.keys())
    except (SafetensorError, OSError):
        return False


def _open_lightning(path: Path, shards: list[Path]) -> ExternalLatents:
    """Open shards of unscaled posterior samples and mirrored ones, and their statistics."""
    rows = open_shards(path, shards, *LIGHTNING_KEYS)
    statistics = lightning_statistics(path, rows.shape_RYX[0])
    return ExternalLatents(rows=rows, content=Content.LATENT, stored_scale=1.0, statistics=statistics)


def lightning_statistics(folder: Path, channels: int) -> Statistics:
    """Return the statistics in a folder of latents.

    Raises:
        DataError: If the file is damaged, or of other channels.
    """
    file = folder / STATISTICS
    if not file.is_file():
        return NO_STATISTICS
    try:
        return read_statistics(file, channels)
    except CheckpointError as err:
        raise DataError(err.message, hint="remove it; it is made again when missing") from err


def _names_in(folder: Path) -> Iterator[str]:
    """Iterate over the names of the regular files in a folder."""
    with os.scandir(folder) as entries:
        yield from (entry.name for entry in entries if entry.is_file())
