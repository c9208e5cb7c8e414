"""Encode the missing shards of a folder of latents, together with other processes."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from medcli.data.autoencoder import LatentEncoder
from medcli.data.image_listing import ImageListing
from medcli.data.image_set import read_pixels
from medcli.data.latent_index import MIRRORED, MOMENTS, SHARD, LatentIndex
from medcli.data.latent_shards import LABELS_KEY, METADATA
from medcli.errors import DataError, EnvironmentProblem
from medcli.runtime.json_records import InvalidJson, as_record, parse_json
from medcli.runtime.precision import DTYPES
from medcli.runtime.prefetch import prefetch
from medcli.runtime.reporting import Reporter
from medcli.runtime.shared_work import SharedWork
from medcli.runtime.tensor_files import has_all_bytes, write_tensors

# Dimension key: B images of a batch, n images of a shard, R = 2 C moments, C latent channels, Y X height and width.

READ_AHEAD = 32
"""Images that are decoded while as many before them are encoded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardSums:
    """Metadata of a shard: the run it belongs to, and its share of the statistics."""

    identity: str
    """`LatentIndex.identity`."""
    count: int = field(metadata={"min": 1})
    sum: tuple[float, ...]
    sum_squares: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentEncoding:
    """One process's share of encoding a data set."""

    folder: Path
    index: LatentIndex
    listing: ImageListing
    encoder: LatentEncoder
    work: SharedWork
    reporter: Reporter

    def run(self) -> tuple[int, float, bool]:
        """Encode what is missing; return the images encoded by this process, seconds, and `SharedWork.run`'s answer."""
        start, sizes = time.monotonic(), list[int]()

        def fill() -> None:
            sizes.extend(self._encode(number) for number in self.work.claims(self.index.num_shards))

        is_last = self.work.run(self.index.num_shards, fill)
        return sum(sizes), round(time.monotonic() - start, 3), is_last

    def completed(self) -> LatentIndex:
        """Return the index with the statistics of all shards.

        Raises:
            DataError: If a shard is damaged or of another run; it is named.
        """
        sums = [self._sums(number) for number in range(self.index.num_shards)]
        count = sum(part.count for part in sums)
        mean = [math.fsum(values) / count for values in zip(*(part.sum for part in sums), strict=True)]
        square = [math.fsum(values) / count for values in zip(*(part.sum_squares for part in sums), strict=True)]
        std = [math.sqrt(max(0.0, high - low * low)) for low, high in zip(mean, square, strict=True)]
        return replace(
            self.index, mean=tuple(round(value, 6) for value in mean), std=tuple(round(value, 6) for value in std)
        )

    def _encode(self, number: int) -> int:
        """Encode the images of a shard and write it; return how many they are."""
        first = number * self.index.shard_size
        picks = range(first, min(first + self.index.shard_size, self.index.num_images))
        # By names alone: to open all shards again for each would take hours of a file server.
        num_written = sum(SHARD.fullmatch(name) is not None for name in os.listdir(self.folder))
        num_done = min(num_written * self.index.shard_size, self.index.num_images - len(picks))
        parts: dict[str, list[Tensor]] = {MOMENTS: [], **({MIRRORED: []} if self.index.flip else {})}
        for pixels_BCYX in self._pixels(picks):
            parts[MOMENTS].append(self.encoder.moments(pixels_BCYX))
            if self.index.flip:
                parts[MIRRORED].append(self.encoder.moments(pixels_BCYX.flip(-1)))
            num_done += len(pixels_BCYX)
            self.reporter.progress(num_done, self.index.num_images, "images")
        self._write(number, {name: torch.cat(rows) for name, rows in parts.items()}, picks)
        return len(picks)

    def _pixels(self, picks: range) -> Iterator[Tensor]:
        """Yield pixels of these images, the next batch being read while one is encoded."""
        step = self.encoder.batch_size * max(1, READ_AHEAD // self.encoder.batch_size)

        def read(start: int) -> Tensor:
            files = [self.listing.path(pick) for pick in picks[start : start + step]]
            return read_pixels(files, self.index.resolution_px, self.encoder.image_channels)

        with prefetch(read, range(0, len(picks), step), depth=1) as batches:
            for _, pixels_BCYX in batches:
                yield pixels_BCYX

    def _write(self, number: int, moments: dict[str, Tensor], picks: range) -> None:
        stored = {name: rows_nRYX.to(DTYPES[self.index.storage]) for name, rows_nRYX in moments.items()}
        for rows_nRYX in stored.values():
            is_good_n = rows_nRYX.isfinite().flatten(1).all(dim=1).tolist()
            if not all(is_good_n):
                bad = self.listing.path(picks[is_good_n.index(False)])
                raise EnvironmentProblem(
                    f"the autoencoder makes NaN or infinite latents of {bad}",
                    hint="use --dtype fp32 and --storage fp32",
                )
        labels_n = torch.from_numpy(self.listing.labels_N[picks.start : picks.stop].copy())
        note = {"identity": self.index.identity, **sums_of(list(stored.values()), self.index)}
        metadata = {METADATA: json.dumps(note, sort_keys=True)}
        tensors = {**stored, LABELS_KEY: labels_n}
        write_tensors(self.index.shard_path(self.folder, number), tensors, metadata, is_durable=True)

    def _sums(self, number: int) -> ShardSums:
        path = self.index.shard_path(self.folder, number)
        try:
            with safe_open(str(path), framework="pt") as shard:
                sums = as_record(ShardSums, parse_json((shard.metadata() or {}).get(METADATA, "")))
        except (SafetensorError, OSError, InvalidJson) as err:
            raise DataError(f"{path} is damaged", hint="remove it and run the command again") from err
        if sums.identity != self.index.identity:
            raise DataError(f"{path} is of another run", hint="remove it and run the command again")
        if len(sums.sum) != self.index.shape[0] or len(sums.sum_squares) != self.index.shape[0]:
            raise DataError(f"{path} is damaged", hint="remove it and run the command again")
        return sums


def missing_shards(folder: Path, index: LatentIndex) -> list[int]:
    """Return the numbers of the shards that are missing or not whole."""
    return [number for number in range(index.num_shards) if not is_done(folder, index, number)]


def is_done(folder: Path, index: LatentIndex, number: int) -> bool:
    """Return True if there is a whole shard: one that was cut has fewer bytes than its header promises."""
    return has_all_bytes(index.shard_path(folder, number))


def sums_of(rows: list[Tensor], index: LatentIndex) -> dict[str, Any]:
    """Return the sums behind the statistics of the scaled latents; those of a set are the sums over its shards.

    Args:
        rows: (n, 2 C, Y, X) moments, those of mirrored images included.
        index: Scale and shift.

    Returns:
        `count` of latent pixels, and for each channel the `sum` and the `sum_squares` that samples have on average.
    """
    mean_nCYX, log_variance_nCYX = torch.cat(rows).double().chunk(2, dim=1)
    mean_nCYX = (mean_nCYX - index.shift) * index.scale
    variance_nCYX = log_variance_nCYX.exp() * index.scale**2
    return {
        "count": mean_nCYX[:, 0].numel(),
        "sum": mean_nCYX.sum(dim=(0, 2, 3)).tolist(),
        "sum_squares": (mean_nCYX.square() + variance_nCYX).sum(dim=(0, 2, 3)).tolist(),
    }
