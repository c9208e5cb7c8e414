"""Features of an image set, computed in one pass for all metrics.

Dimension key: N images, D features.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from medcli.data.image_source import ImageSource
from medcli.errors import DataError, EnvironmentProblem
from medcli.runtime.reporting import Reporter
from medcli.scores.extractor import LOGITS, POOL, FeatureExtractor
from medcli.scores.feature_cache import FeatureCache
from medcli.scores.feature_workers import FeatureWorkers, features_in_order
from medcli.scores.moments import BlockMoments, Gaussian, Moments, RunningMoments
from medcli.scores.shards import SHARD_IMAGES, FeatureJob, ShardFeatures, content_sha256, plan_shards
from medcli.scores.standard_error import num_blocks, random_blocks


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Results of a pass to keep; others take no memory."""

    gaussians: frozenset[str] = frozenset()
    """Kinds of features whose mean and covariance are needed; not `logits`."""
    rows: frozenset[str] = frozenset()
    """Kinds of features needed image by image."""
    blocks: bool = False
    """Also keep the moments of random blocks, of the kinds in `gaussians`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSet:
    """Features of an image set, or statistics of them."""

    name: str
    """Name of the set in messages."""
    num_images: int | None
    """Images whose features are or could be had one by one; None for a set known by statistics alone."""
    gaussians: Mapping[str, Gaussian] = field(default_factory=dict)
    """Mean and covariance by kind of feature."""
    rows: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """(N, D) float32 features in index order, on the CPU, by kind of feature."""
    block_moments: Mapping[str, Sequence[Moments]] = field(default_factory=dict)
    """Moments of random blocks of rows by kind of feature, each computed on access."""
    content_sha256: str | None = None
    """Hash of the pixels of all images in order, one and the same for PNGs and an npz of them; None without images."""


def extract(
    source: ImageSource,
    extractor: FeatureExtractor,
    wanted: Wanted,
    *,
    batch_size: int,
    reporter: Reporter,
    cache: FeatureCache | None = None,
    workers: FeatureWorkers | None = None,
) -> FeatureSet:
    """Run the extractor over all images once, or read its features from the cache.

    The result depends on the images and the extractor alone, not on processes, interruptions or the cache; on the batch
    size only where the device rounds differently for it.

    Args:
        wanted: Results to keep. Large ones, such as spatial maps, take little memory as a Gaussian.
        batch_size: Most images in one network call.
        cache: The feature cache; None keeps features in memory.
        workers: Processes to start for the work; None: this one alone.

    Raises:
        DataError: If there are fewer than two images, one can't be read, or a feature is not finite.
        EnvironmentProblem: If a cached file is removed while it is in use.
    """
    _check_source(source, reporter)
    with ExitStack() as stack:
        kept = cache
        if cache is None and workers and len(workers.devices) > 1:
            # Files are how processes hand over features: for the time of the pass there must be a place for them.
            cache = FeatureCache(Path(stack.enter_context(TemporaryDirectory(prefix="medcli-features-"))))
        num_threads = workers.num_threads if workers else None
        job = job_of(source, extractor, batch_size=batch_size, cache=cache, num_threads=num_threads)
        summary = _Summary(job, wanted, kept)
        for shard in features_in_order(job, workers, reporter):
            summary.add(shard)
    summary.report_copies(reporter)
    return summary.feature_set()


def _check_source(source: ImageSource, reporter: Reporter) -> None:
    """Refuse too few images, and report remarks on them."""
    if source.num_images < 2:
        raise DataError(
            f"{source.name} holds {source.num_images} image, scores need at least 2",
            hint="score more images, thousands if you can",
        )
    for remark in source.remarks:
        reporter.note(remark)


def job_of(
    source: ImageSource,
    extractor: FeatureExtractor,
    *,
    batch_size: int,
    cache: FeatureCache | None,
    num_threads: int | None = None,
) -> FeatureJob:
    """Return a pass over an image set, cut into the same shards in every process."""
    max_images = cache.shard_images if cache else SHARD_IMAGES
    return FeatureJob(
        source=source,
        extractor=extractor,
        shards=plan_shards(source.image_bytes, max_images=max_images),
        batch_size=batch_size,
        cache=cache,
        num_threads=num_threads,
    )


class _Summary:
    """Accumulates the wanted results of shards, which come in order."""

    def __init__(self, job: FeatureJob, wanted: Wanted, cache: FeatureCache | None) -> None:
        self._job, self._wanted, self._cache = job, wanted, cache
        num, dims = job.source.num_images, job.extractor.dims
        self._running = {kind: RunningMoments(dims[kind]) for kind in wanted.gaussians}
        self._rows = {kind: torch.empty(num, dims[kind]) for kind in wanted.rows}
        self._blocks = _StoredBlocks(job, cache, wanted.gaussians - wanted.rows) if wanted.blocks else None
        self._digests: list[bytes] = []

    def add(self, shard: ShardFeatures) -> None:
        """Add the next shard."""
        assert shard.rows is not None
        start, stop = len(self._digests), len(self._digests) + len(shard.digests)
        for kind, running in self._running.items():
            running.add(shard.rows[kind])
        for kind, rows in self._rows.items():
            found = self._job.extractor.logits(shard.rows[POOL]) if kind == LOGITS else shard.rows[kind]
            rows[start:stop] = found
        if self._blocks:
            self._blocks.add(shard)
        self._digests += shard.digests

    def feature_set(self) -> FeatureSet:
        """Return the wanted results."""
        source = self._job.source
        blocks = {}
        if self._blocks:
            for kind in self._wanted.gaussians:
                read = partial(_pick, self._rows[kind]) if kind in self._rows else partial(self._blocks.read, kind)
                dim = self._job.extractor.dims[kind]
                blocks[kind] = BlockMoments(read, blocks=random_blocks(source.num_images, num_blocks(dim)), dim=dim)
        return FeatureSet(
            name=source.name,
            num_images=source.num_images,
            gaussians={kind: running.moments().gaussian() for kind, running in self._running.items()},
            rows=self._rows,
            block_moments=blocks,
            content_sha256=content_sha256(self._digests),
        )

    def report_copies(self, reporter: Reporter) -> None:
        """Warn of duplicate images: a sampler that repeats itself, or a folder filled twice."""
        counts = Counter(self._digests)
        num_copies = len(self._digests) - len(counts)
        if num_copies:
            often = next(digest for digest, count in counts.items() if count > 1)
            first = self._digests.index(often)
            reporter.warn(
                f"{num_copies} of {len(self._digests)} images in {self._job.source.name} are copies of others "
                f"(first: images {first} and {self._digests.index(often, first + 1)})"
            )


class _StoredBlocks:
    """Rows of blocks, read on demand from the cache, else from memory."""

    def __init__(self, job: FeatureJob, cache: FeatureCache | None, kinds: frozenset[str]) -> None:
        self._job, self._cache, self._kinds = job, cache, kinds
        self._parts: list[tuple[range, str | None, dict[str, torch.Tensor]]] = []

    def add(self, shard: ShardFeatures) -> None:
        key = shard.key if self._cache else None
        rows = shard.rows if shard.rows and not key else {}
        kept = {kind: found for kind, found in rows.items() if kind in self._kinds}
        self._parts.append((self._job.shards[shard.number], key, kept))

    def read(self, kind: str, index_B: torch.Tensor) -> Iterator[torch.Tensor]:
        for span, key, rows in self._parts:
            picked_B = index_B[(index_B >= span.start) & (index_B < span.stop)] - span.start
            if len(picked_B):
                found = self._load(key, len(span), kind) if key else rows[kind]
                yield found[picked_B]

    def _load(self, key: str, num_images: int, kind: str) -> torch.Tensor:
        assert self._cache is not None
        rows = self._cache.load(self._job.extractor, key, num_images, [kind])
        if rows is None:
            raise EnvironmentProblem(
                f"{self._cache.path(self._job.extractor, key)} was removed or changed while it was in use",
                hint="run the command again",
            )
        return rows[kind]


def _pick(rows_ND: torch.Tensor, index_B: torch.Tensor) -> Iterator[torch.Tensor]:
    for part_B in torch.split(index_B, SHARD_IMAGES):
        yield rows_ND[part_B]
