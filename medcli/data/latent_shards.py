"""Stored latents: many in a safetensors shard."""

from __future__ import annotations

import bisect
import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medcli.checkpoint.safetensors_file import read_safetensors
from medcli.checkpoint.tensor_record import FLOAT_DTYPES, ITEM_SIZES, Region, TensorRecord
from medcli.data.image_files import unreadable
from medcli.data.latent_rows import checked_labels, sampled_places
from medcli.data.parallel_read import MAX_THREADS, read_all
from medcli.data.read_ahead import ReadAhead
from medcli.data.shard_reader import FileState, Place, ShardReader, state_of
from medcli.errors import CheckpointError, DataError
from medcli.runtime.files import require_regular
from medcli.runtime.json_records import InvalidJson, parse_json
from medcli.runtime.tensor_files import CODES

# Dimension key: N images, B images of a batch, R stored channels, Y X latent height and width.

LABELS_KEY = "labels"
METADATA = "medcli"
"""Key of the metadata of our own shards: the run they belong to."""
SHARDS_HASHED, ROWS_HASHED = 16, 4
"""Shards of a folder, and rows of each of them, whose values are part of the fingerprint; of others, names, sizes and
labels are."""
DTYPES = {code: dtype for dtype, code in CODES.items()}
SHARD_HINT = "copy it again, or make it again"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRows:
    """Rows of safetensors files, which stay on disk until they are read."""

    path: Path
    files: tuple[Path, ...]
    starts: tuple[int, ...]
    """Number of the first image of each file."""
    rows_at: tuple[int, ...]
    """Place of the first row in each file, in bytes."""
    mirrored_at: tuple[int, ...]
    """The same for the mirrored images; empty if there are none."""
    shape_RYX: tuple[int, int, int]
    """Shape of a row."""
    dtype: torch.dtype
    """Type in which rows are stored."""
    labels_N: npt.NDArray[np.int64]
    fingerprint: str
    ahead: ReadAhead[Place]

    @property
    def name(self) -> str:
        """Folder of the rows."""
        return str(self.path)

    @property
    def has_flips(self) -> bool:
        """True if there are rows of mirrored images."""
        return bool(self.mirrored_at)

    def expect(self, picks: list[int], flips: list[bool]) -> None:
        """Begin to read what `read` will be called for."""
        self.ahead.expect(self._places(picks, flips))

    def read(self, picks: list[int], flips: list[bool]) -> Tensor:
        """(B, R, Y, X) float32 rows, of the mirrored image where `flips` says so.

        Raises:
            DataError: If shards were changed or cut since they were opened: how many rows, and the first.
        """
        stored = torch.from_numpy(self.ahead.read(self._places(picks, flips)))
        return stored.view(self.dtype).view(-1, *self.shape_RYX).float()

    def place(self, pick: int) -> str:
        """Return the file and row of an image."""
        number, place = self._find(pick)
        return f"row {place} of {self.files[number]}"

    def _places(self, picks: list[int], flips: list[bool]) -> list[Place]:
        size, places = math.prod(self.shape_RYX) * self.dtype.itemsize, []
        for pick, flip in zip(picks, flips, strict=True):
            number, row = self._find(pick)
            places.append(Place(number, (self.mirrored_at if flip else self.rows_at)[number] + row * size))
        return places

    def _find(self, pick: int) -> tuple[int, int]:
        number = bisect.bisect_right(self.starts, pick) - 1
        return number, pick - self.starts[number]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shard:
    """A shard, of which the header and the labels were read."""

    state: FileState
    rows: TensorRecord
    mirrored: TensorRecord | None
    labels_N: npt.NDArray[np.int64]
    run: object
    """Run that made it, as its metadata name it; None where they do not."""


def open_shards(path: Path, files: Sequence[Path], rows_key: str, mirrored_key: str) -> ShardRows:
    """Read the headers and labels of shards, and a few rows for the fingerprint.

    Args:
        path: Their folder.
        files: The shards, in order; at least one.
        rows_key: Tensor of the images' rows.
        mirrored_key: Tensor of the mirrored images' rows, in every shard or in none.

    Raises:
        DataError: If a shard is damaged or its tensors don't fit together; it is named.
    """
    shards = read_all(lambda file: _open_shard(file, rows_key, mirrored_key), files, MAX_THREADS)
    for file, shard in zip(files, shards, strict=True):
        _check_shard(file, shard, shards[0].rows)
        if shard.run != shards[0].run:
            raise DataError(f"{file} and {files[0]} are of different runs", hint=SHARD_HINT)
    rows = tuple(shard.rows for shard in shards)
    mirrored = tuple(shard.mirrored for shard in shards if shard.mirrored is not None)
    if mirrored and len(mirrored) != len(files):
        raise DataError(f"{len(files) - len(mirrored)} shards of {path} have no {mirrored_key}", hint="make them again")
    channels, height, width = rows[0].shape[1:]
    reader = ShardReader(files, [shard.state for shard in shards])
    return ShardRows(
        path=path,
        files=tuple(files),
        starts=tuple(accumulate((record.shape[0] for record in rows[:-1]), initial=0)),
        rows_at=tuple(map(_start, rows)),
        mirrored_at=tuple(map(_start, mirrored)),
        shape_RYX=(channels, height, width),
        dtype=DTYPES[rows[0].dtype],
        labels_N=checked_labels(path, np.concatenate([shard.labels_N for shard in shards])),
        fingerprint=_shards_fingerprint(files, shards, reader),
        ahead=ReadAhead(reader.read, _row_bytes(rows[0])),
    )


def _shards_fingerprint(files: Sequence[Path], shards: Sequence[_Shard], reader: ShardReader) -> str:
    """Return the SHA-256 of the names, sizes and labels of shards, and of some rows of some of them."""
    row = memoryview(bytearray(_row_bytes(shards[0].rows)))
    sampled = set(sampled_places(len(files), SHARDS_HASHED))
    digest = hashlib.sha256()
    for number, (file, shard) in enumerate(zip(files, shards, strict=True)):
        digest.update(os.fsencode(file.name) + f" {shard.state.num_bytes}".encode() + shard.labels_N.tobytes())
        if number in sampled:
            for place in sampled_places(shard.rows.shape[0], ROWS_HASHED):
                reader.read(Place(number, _start(shard.rows) + place * len(row)), row)
                digest.update(row)
    return digest.hexdigest()


def _row_bytes(record: TensorRecord) -> int:
    return math.prod(record.shape[1:]) * ITEM_SIZES[record.dtype]


def _start(record: TensorRecord) -> int:
    """Return the place of a tensor in its file, in bytes."""
    (region,) = record.pieces
    assert isinstance(region, Region)
    return region.offset


def _open_shard(file: Path, rows_key: str, mirrored_key: str) -> _Shard:
    """Read the header and the labels of a shard."""
    require_regular(file)
    try:
        state = state_of(file.stat())
        records, metadata = read_safetensors(file)
        if missing := [key for key in (rows_key, LABELS_KEY) if key not in records]:
            raise DataError(f"{file} has no tensor {missing[0]}", hint=SHARD_HINT)
        labels = records[LABELS_KEY]
        return _Shard(
            state=state,
            rows=records[rows_key],
            mirrored=records.get(mirrored_key),
            labels_N=_whole_labels(file, _values(labels)),
            run=_run_of(metadata.get(METADATA, "{}")),
        )
    except CheckpointError as err:
        raise DataError(f"{file} is no whole safetensors file: {err.message}", hint=SHARD_HINT) from err
    except OSError as err:
        raise unreadable(file, err) from err


def _run_of(text: str) -> object:
    try:
        note = parse_json(text)
    except InvalidJson:
        return text
    return note.get("identity") if isinstance(note, dict) else text


def _values(record: TensorRecord) -> Tensor:
    """Return the values of a small tensor, flat."""
    return torch.from_numpy(np.frombuffer(bytearray(record.read()), np.uint8)).view(DTYPES[record.dtype])


def _whole_labels(file: Path, labels: Tensor) -> npt.NDArray[np.int64]:
    """Return labels as (N,) int64."""
    whole = labels.to(torch.int64) if labels.dtype != torch.bool else None
    if whole is None or (bad := whole.to(labels.dtype) != labels).any() or not torch.isfinite(labels.double()).all():
        shown = labels.dtype if whole is None else labels[bad][0].item() if bad.any() else "not finite"
        raise DataError(f"{file}: a label is {shown}, expected whole numbers from 0", hint="write the labels again")
    return whole.numpy()


def _check_shard(file: Path, shard: _Shard, first: TensorRecord) -> None:
    """Refuse tensors that do not fit the labels, or the first shard's rows."""
    for record in (shard.rows, shard.mirrored):
        if record is None:
            continue
        wanted = (len(shard.labels_N), *first.shape[1:])
        if len(record.shape) != 4 or record.shape != wanted:
            raise DataError(
                f"{file}: {record.name} has shape {record.shape}, expected {wanted}",
                hint="keep one set of shards in a folder",
            )
        if record.dtype not in FLOAT_DTYPES or record.dtype != first.dtype:
            expected = first.dtype if first.dtype in FLOAT_DTYPES else "floating point"
            raise DataError(f"{file}: {record.name} has type {record.dtype}, expected {expected}", hint="make it again")
