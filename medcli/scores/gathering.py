"""The shards of an image set in order, whoever computes them: this process, helpers it started, or strangers.

Any process that makes the same pass over the same set with the same cache takes part in it: those `torchrun` started,
or a second command on another machine. Each claims the shards nobody else has, and waits for the rest.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace

from medcli.errors import EnvironmentProblem
from medcli.runtime.locks import FolderLocks
from medcli.runtime.reporting import Reporter
from medcli.scores.crew import Crew, Helpers
from medcli.scores.feature_cache import FeatureCache
from medcli.scores.shard_work import Job, Part, claimed, work
from medcli.scores.shards import Shard, read_shards

POLL_S = 0.1


def parts_in_order(job: Job, crew: Crew | None, reporter: Reporter) -> Iterator[Part]:
    """Yield every shard of the job, in order, with its features.

    Args:
        job: The pass.
        crew: Processes to start for it; needs a cache.
        reporter: Told of progress, and of a cache that can't be used.

    Raises:
        DataError: If an image can't be read, or its features are not finite.
    """
    told = _Told(job.source.num_images, reporter)
    with ExitStack() as stack:
        locks = _locks(job, stack, reporter) if job.cache else None
        if job.cache is None or locks is None:
            yield from work(replace(job, cache=None), range(len(job.shards)), told)
            return
        helpers = stack.enter_context(Helpers(crew, job, job.cache)) if crew and len(crew.devices) > 1 else None
        yield from _Gathering(job, job.cache, locks, helpers, told, reporter).parts()


def assist(job: Job) -> None:
    """Compute what nobody else has taken, for the process of this launch that speaks for all: features go to the cache.

    Raises:
        DataError: If an image can't be read, or its features are not finite.
    """
    assert job.cache is not None
    try:
        locks = job.claims(job.cache)
    except EnvironmentProblem:  # the first process says so, and does the work alone
        return
    with closing(locks):
        for _part in work(job, claimed(locks, len(job.shards)), lambda _num_images: None):
            pass


def _locks(job: Job, stack: ExitStack, reporter: Reporter) -> FolderLocks | None:
    assert job.cache is not None
    try:
        locks = job.claims(job.cache)
    except EnvironmentProblem as err:
        reporter.note(f"features are not kept: {err.message}")
        return None
    job.cache.sweep()
    return stack.enter_context(closing(locks))


class _Told:
    """Counts images for the reporter."""

    def __init__(self, num_images: int, reporter: Reporter) -> None:
        self._done, self._num_images, self._reporter = 0, num_images, reporter

    def __call__(self, num_images: int) -> None:
        self._done = min(self._done + num_images, self._num_images)
        self._reporter.progress(self._done, self._num_images, "images")


class _Gathering:
    """One pass over a set that others may be making too."""

    def __init__(
        self,
        job: Job,
        cache: FeatureCache,
        locks: FolderLocks,
        helpers: Helpers | None,
        told: _Told,
        reporter: Reporter,
    ) -> None:
        self._job, self._cache, self._locks, self._helpers = job, cache, locks, helpers
        self._told, self._reporter = told, reporter
        self._later: dict[int, Part] = {}
        self._has_complained = False

    def parts(self) -> Iterator[Part]:
        """All shards in order, with their features."""
        due = 0
        for part in work(self._job, claimed(self._locks, len(self._job.shards)), self._told):
            self._hear(part)
            if part.number == due:
                due += 1
                yield part
            else:  # what the cache keeps need not be held until its turn comes
                self._later[part.number] = replace(part, rows=None) if part.key else part
        for number in range(due, len(self._job.shards)):
            yield self._obtained(number)

    def _hear(self, part: Part | None = None) -> None:
        if part and part.trouble and not self._has_complained:
            self._has_complained = True
            self._reporter.note(f"features are not kept: {part.trouble}")
        if self._helpers:
            parts, num_images = self._helpers.news()
            self._later |= {part.number: part for part in parts}
            if num_images:
                self._told(num_images)

    def _obtained(self, number: int) -> Part:
        """A shard that somebody else has, or had, or that was put aside."""
        shard: Shard | None = None
        while True:
            self._hear()
            if (known := self._later.pop(number, None)) and (part := self._read(known)):
                return part
            if shard and (part := self._read(self._named(shard))):
                self._told(len(shard.images))
                return part
            # Where the cache can't be written to, waiting for others may be waiting for nothing.
            if self._has_complained or self._locks.claim(number):
                return self._done_here(number)
            if self._helpers is None or self._helpers.are_gone:
                # A stranger has it: what to look for in the cache, only the images themselves can tell.
                shard = shard or next(read_shards(self._job.source, self._job.shards, [number]))
            time.sleep(POLL_S)

    def _named(self, shard: Shard) -> Part:
        key = self._cache.key(self._job.extractor, shard.digests)
        return Part(number=shard.number, digests=shard.digests, key=key, rows=None)

    def _read(self, part: Part) -> Part | None:
        if part.rows is not None or part.key is None:
            return part
        rows = self._cache.load(self._job.extractor, part.key, len(part.digests))
        return replace(part, rows=rows) if rows else None

    def _done_here(self, number: int) -> Part:
        part = next(work(self._job, [number], self._told))
        self._hear(part)
        return part
