"""Image sets cut into shards: the unit in which features are computed, cached and shared between processes.

Dimension key: B batch, N images of a shard, D features.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import torch

from medcli.data.image_source import ImageSource
from medcli.errors import DataError, EnvironmentProblem
from medcli.runtime.files import FileSizeLimit
from medcli.runtime.shared_work import SharedWork
from medcli.runtime.timing import thread_limit
from medcli.scores.extractor import FeatureExtractor, kinds_to_store
from medcli.scores.feature_cache import FeatureCache

SHARD_IMAGES = 1024
SHARD_BYTES = 192 * 2**20
"""Most pixels of a shard: those of 1024 images of 256 x 256. They are held until their hash is known."""
PREFETCH_BATCHES = 4
"""Network calls on a CPU left of a shard when the next one is claimed and read: early enough to hide the reading, late
enough to leave it to another process that is idle. A GPU is faster than the reading, which begins with the shard."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """Consecutive images of a set."""

    number: int
    images: Sequence[torch.Tensor] | None
    """(Y, X, 3) uint8 each; None: their features are cached, so they were not decoded."""
    digests: tuple[bytes, ...]
    """SHA-256 of each image's size and pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardFeatures:
    """Features of a shard."""

    number: int
    digests: tuple[bytes, ...]
    """SHA-256 of each image."""
    key: str | None
    """Name of the features in the cache; None if they are not there."""
    rows: Mapping[str, torch.Tensor] | None = None
    """(N, D) float32 features of all stored kinds; None: to be read from the cache."""
    problem: str | None = None
    """Why they could not be cached."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureJob:
    """One pass of an extractor over an image set, the same in all processes that take part."""

    source: ImageSource
    extractor: FeatureExtractor
    shards: tuple[range, ...]
    batch_size: int
    """Most images in one network call."""
    cache: FeatureCache | None
    num_threads: int | None = None
    """Threads of the network on the CPU; None: torch's default."""

    def share(self, cache: FeatureCache) -> SharedWork:
        """Join the processes that make the same pass with the same cache.

        Raises:
            EnvironmentProblem: If the cache can't be written to.
        """
        about = (str(Path(self.source.name).absolute()), len(self.shards), self.source.num_images)
        extractor = (self.extractor.name, self.extractor.weights_sha256)
        name = hashlib.sha256(json.dumps([about, extractor]).encode()).hexdigest()
        work = SharedWork(cache.folder / "claims" / f"{name}.lock")
        work.share()
        return work

    def cached(self, shard: ShardFeatures) -> ShardFeatures | None:
        """Return the shard with its features, read from the cache if need be; None if they are not there."""
        if shard.rows is not None or shard.key is None or self.cache is None:
            return shard
        rows = self.cache.load(self.extractor, shard.key, len(shard.digests))
        return ShardFeatures(number=shard.number, digests=shard.digests, key=shard.key, rows=rows) if rows else None

    def identity(self, number: int) -> bytes | None:
        """Return what identifies the images of a shard without decoding them, if there is a cache to look it up in."""
        return self.source.identity(self.shards[number]) if self.cache else None

    def known(self, number: int, identity: bytes | None) -> Shard | None:
        """Return a shard without its images if they were decoded before and its features are in the cache."""
        if self.cache is None or identity is None:
            return None
        digests = self.cache.digests(identity, len(self.shards[number]))
        if digests is None or not self.cache.has(self.extractor, self.cache.key(self.extractor, digests)):
            return None
        return Shard(number=number, images=None, digests=digests)

    def keyed(self, number: int, digests: tuple[bytes, ...]) -> ShardFeatures:
        """Return a shard under its key in the cache, its features not read yet."""
        key = self.cache.key(self.extractor, digests) if self.cache else None
        return ShardFeatures(number=number, digests=digests, key=key)


def plan_shards(
    image_bytes: Sequence[int], *, max_images: int = SHARD_IMAGES, max_bytes: int = SHARD_BYTES
) -> tuple[range, ...]:
    """Cut a set into shards: as many images as both limits allow, at least one.

    The cuts depend on the sizes of the images alone, so a folder and an npz of the same images are cut alike.

    Args:
        image_bytes: Size of each image's pixels.
        max_images: Most images of a shard.
        max_bytes: Most bytes of a shard.
    """
    cuts, size = [0], 0
    for index, num_bytes in enumerate(image_bytes):
        if index > cuts[-1] and (index - cuts[-1] == max_images or size + num_bytes > max_bytes):
            cuts.append(index)
            size = 0
        size += num_bytes
    return tuple(range(start, stop) for start, stop in zip(cuts, [*cuts[1:], len(image_bytes)], strict=True))


def read_shards(job: FeatureJob, numbers: Iterable[int]) -> Iterator[Shard]:
    """Read shards in the order of `numbers`, which rise; each number is taken just before it is read.

    Shards whose features are cached are not decoded; many in a row are yielded together.
    """
    known: list[Shard] = []
    taken: list[tuple[int, bytes | None]] = []

    def unknown() -> Iterator[range]:
        for number in numbers:
            identity = job.identity(number)
            if shard := job.known(number, identity):
                known.append(shard)
            else:
                taken.append((number, identity))
                yield job.shards[number]

    for images in job.source.read(unknown()):
        number, identity = taken.pop()
        yield from known
        known.clear()
        digests = tuple(map(image_digest, images))
        if job.cache and identity:
            job.cache.keep_digests(identity, digests)
        yield Shard(number=number, images=images, digests=digests)
    yield from known


def image_digest(image_YXC: torch.Tensor) -> bytes:
    """Return the SHA-256 of an image's height, width and pixels."""
    digest = hashlib.sha256(f"{tuple(image_YXC.shape)}".encode())
    digest.update(image_YXC.reshape(-1).numpy().data)
    return digest.digest()


def content_sha256(digests: Iterable[bytes]) -> str:
    """Return the hash of a set of images in order: the same for PNGs and an npz of them, however it is cut."""
    return hashlib.sha256(b"".join(digests)).hexdigest()


def shard_features(job: FeatureJob, numbers: Iterable[int], progress: Callable[[int], None]) -> Iterator[ShardFeatures]:
    """Yield the features of shards, from the cache or the network; the next shard is read meanwhile.

    Args:
        numbers: Shards, rising; each number is taken shortly before it is read.
        progress: Called with the number of images done since the last call.

    Raises:
        DataError: If an image can't be read, or its features are not finite.
    """
    with ThreadPoolExecutor(1) as reader:
        shards, coming = read_shards(job, numbers), list[Future[Shard | None]]()

        def prefetch() -> None:
            if not coming:
                coming.append(reader.submit(next, shards, None))

        while True:
            prefetch()
            if (shard := coming.pop().result()) is None:
                return
            keyed = job.keyed(shard.number, shard.digests)
            if job.cache and (found := job.cached(keyed)):
                progress(len(shard.digests))
            else:
                if shard.images is None:  # the cached file is damaged, or was removed just now
                    shard = replace(shard, images=next(iter(job.source.read([job.shards[shard.number]]))))
                found = _computed(job, shard, keyed.key, progress, prefetch)
            del shard
            yield found


def _computed(
    job: FeatureJob, shard: Shard, key: str | None, progress: Callable[[int], None], prefetch: Callable[[], None]
) -> ShardFeatures:
    assert shard.images is not None
    first = job.shards[shard.number].start
    with thread_limit(job.num_threads):
        rows = network_rows(job, shard.images, progress, prefetch)
    for found in rows.values():
        is_bad_N = ~torch.isfinite(found).all(dim=1)
        if is_bad_N.any():
            raise DataError(
                f"{job.source.name}: the features of image {first + int(is_bad_N.nonzero()[0])} are not finite",
                hint="the extractor weights are damaged",
            )
    problem = None
    if job.cache is not None and key is not None:
        try:
            job.cache.save(job.extractor, key, rows)
        except FileSizeLimit:
            raise
        except EnvironmentProblem as err:  # a full disk or a read-only folder is no reason to stop
            key, problem = None, err.message
    return ShardFeatures(number=shard.number, digests=shard.digests, key=key, rows=rows, problem=problem)


def network_rows(
    job: FeatureJob,
    images: Sequence[torch.Tensor],
    progress: Callable[[int], None],
    nearly_done: Callable[[], None],
) -> dict[str, torch.Tensor]:
    """Compute features of images of any sizes: (N, D) float32 on the CPU, all stored kinds.

    Every network call has the same shape, the last one too, so no rounding depends on the number of images.

    Args:
        images: (Y, X, 3) uint8 each.
        progress: Called with the number of images of each call.
        nearly_done: Called once, `PREFETCH_BATCHES` calls before the end, on a GPU at the start.
    """
    extractor = job.extractor
    size = min(job.batch_size, extractor.rows_per_call or job.batch_size)
    rows = {kind: torch.empty(len(images), extractor.dims[kind]) for kind in kinds_to_store(extractor)}
    starts = range(0, len(images), size)
    left = PREFETCH_BATCHES if extractor.device_type == "cpu" else len(starts)
    for call, start in enumerate(starts):
        if call == max(0, len(starts) - left):
            nearly_done()
        batch = images[start : start + size]
        seen = torch.cat([extractor.prepare(torch.stack([*run])) for _, run in groupby(batch, attrgetter("shape"))])
        padding = seen[-1:].expand(size - len(batch), *seen.shape[1:])
        found = extractor.run(torch.cat([seen, padding]) if len(padding) else seen)
        for kind, kept in rows.items():
            kept[start : start + len(batch)] = found[kind][: len(batch)].cpu()
        progress(len(batch))
    return rows
