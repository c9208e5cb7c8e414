"""The work on shards: read, look up or compute, keep. Any number of processes may do it on one image set at once.

Dimension key: B batch, N images of a shard, D features.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from medcli.data.images import ImageSource, equal_sizes
from medcli.errors import DataError, EnvironmentProblem
from medcli.runtime.locks import FolderLocks
from medcli.runtime.timing import thread_limit
from medcli.scores.extractor import FeatureExtractor, kinds_to_store
from medcli.scores.feature_cache import FeatureCache
from medcli.scores.shards import Shard, read_shards

BATCHES_AHEAD = 4
"""The next shard is claimed and read once so many network calls of this one are left: early enough to hide the reading,
late enough that another process with nothing to do finds it free."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A pass over an image set, whoever makes it."""

    source: ImageSource
    extractor: FeatureExtractor
    shards: tuple[range, ...]
    batch_size: int
    """Most images in one network call."""
    cache: FeatureCache | None
    num_threads: int | None = None
    """Threads the network may use on the CPU; None leaves them as they are."""

    def claims(self, cache: FeatureCache) -> FolderLocks:
        """Where processes that make this very pass meet; others may come in at once.

        Raises:
            EnvironmentProblem: If the cache can't be written to.
        """
        locks = FolderLocks(self._claims_path(cache))
        locks.share()
        return locks

    def _claims_path(self, cache: FeatureCache) -> Path:
        about = (str(Path(self.source.name).absolute()), len(self.shards), self.source.num_images)
        extractor = (self.extractor.name, self.extractor.weights_sha256)
        name = hashlib.sha256(json.dumps([about, extractor]).encode()).hexdigest()
        return cache.folder / "claims" / f"{name}.lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What is known of a shard once it is done."""

    number: int
    digests: tuple[bytes, ...]
    """SHA-256 of each image."""
    key: str | None
    """Name of its features in the cache; None where they are not there."""
    rows: Mapping[str, torch.Tensor] | None
    """(N, D) float32 features of all stored kinds; None where they are to be read from the cache."""
    trouble: str | None = None
    """Why they are not in the cache, where they were to be."""


def claimed(locks: FolderLocks, num_shards: int) -> Iterator[int]:
    """Numbers of shards no other live process has taken, lowest first, each taken when it is asked for."""
    return (number for number in range(num_shards) if locks.claim(number))


def work(job: Job, numbers: Iterable[int], told: Callable[[int], None]) -> Iterator[Part]:
    """Bring shards to their features, from the cache or through the network; the next one is read meanwhile.

    Args:
        job: The pass.
        numbers: Shards, rising; each is asked for shortly before it is read.
        told: Called with the number of images done since it was last called.

    Raises:
        DataError: If an image can't be read, or its features are not finite.
    """
    with ThreadPoolExecutor(1) as reader:
        ahead = _Ahead(reader, read_shards(job.source, job.shards, numbers))
        while shard := ahead.take():
            part = _found(job, shard)
            if part:
                told(len(shard.images))
            else:
                part = _computed(job, shard, told, ahead.start)
            del shard
            yield part


class _Ahead:
    """The next shard, read by a thread from when `start` is called, or else from when it is taken."""

    def __init__(self, reader: ThreadPoolExecutor, shards: Iterator[Shard]) -> None:
        self._reader, self._shards = reader, shards
        self._coming: Future[Shard | None] | None = None

    def start(self) -> None:
        """Begin to read, if that has not begun."""
        self._coming = self._coming or self._reader.submit(next, self._shards, None)

    def take(self) -> Shard | None:
        """The shard; None after the last."""
        self.start()
        coming, self._coming = self._coming, None
        return coming.result() if coming else None


def _found(job: Job, shard: Shard) -> Part | None:
    """The shard as the cache has it."""
    if job.cache is None:
        return None
    key = job.cache.key(job.extractor, shard.digests)
    rows = job.cache.load(job.extractor, key, len(shard.images))
    return Part(number=shard.number, digests=shard.digests, key=key, rows=rows) if rows else None


def _computed(job: Job, shard: Shard, told: Callable[[int], None], read_on: Callable[[], None]) -> Part:
    first = job.shards[shard.number].start
    with thread_limit(job.num_threads):
        rows = network_rows(job, shard.images, told, read_on)
    for found in rows.values():
        is_bad_N = ~torch.isfinite(found).all(dim=1)
        if is_bad_N.any():
            raise DataError(
                f"{job.source.name}: the features of image {first + int(is_bad_N.nonzero()[0])} are not finite",
                hint="the extractor weights are damaged",
            )
    key, trouble = None, None
    if job.cache is not None:
        key = job.cache.key(job.extractor, shard.digests)
        try:
            job.cache.save(job.extractor, key, rows)
        except EnvironmentProblem as err:  # a full disk or a folder one may not write to is no reason to stop
            key, trouble = None, err.message
    return Part(number=shard.number, digests=shard.digests, key=key, rows=rows, trouble=trouble)


def network_rows(
    job: Job, images: Sequence[torch.Tensor], told: Callable[[int], None], nearly_done: Callable[[], None]
) -> dict[str, torch.Tensor]:
    """Features of images of any sizes, (N, D) float32 on the CPU, all stored kinds.

    Every network call has the same shape, the last one too, so no rounding depends on what is left over.

    Args:
        job: The pass.
        images: (Y, X, 3) uint8 each.
        told: Called with the number of images of each call.
        nearly_done: Called once, when few calls are left.
    """
    extractor = job.extractor
    size = min(job.batch_size, extractor.rows_per_call or job.batch_size)
    rows = {kind: torch.empty(len(images), extractor.dims[kind]) for kind in kinds_to_store(extractor)}
    starts = range(0, len(images), size)
    for turn, start in enumerate(starts):
        if turn == max(0, len(starts) - BATCHES_AHEAD):
            nearly_done()
        batch = images[start : start + size]
        seen = torch.cat([extractor.prepare(torch.stack(run)) for run in equal_sizes(batch)])
        padding = seen[-1:].expand(size - len(batch), *seen.shape[1:])
        found = extractor.run(torch.cat([seen, padding]) if len(padding) else seen)
        for kind, kept in rows.items():
            kept[start : start + len(batch)] = found[kind][: len(batch)].cpu()
        told(len(batch))
    return rows
