"""Features of an image set, shard by shard in order, computed by any number of processes.

Every process that makes the same pass over the same set with the same cache takes part: those of `torchrun`, a second
command on another machine, or the workers started here. Each claims shards, and features are exchanged by the cache.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from multiprocessing import parent_process
from multiprocessing.context import SpawnProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from medcli.errors import ConfigError, EnvironmentProblem, MedcliError
from medcli.runtime.device import pick_device, use_device
from medcli.runtime.processes import Processes, num_cores
from medcli.runtime.reporting import Reporter
from medcli.runtime.shared_lines import SharedLines
from medcli.runtime.shared_work import SharedWork
from medcli.runtime.worker_processes import spawned
from medcli.scores.registry import load_extractor
from medcli.scores.shards import FeatureJob, ShardFeatures, read_shards, shard_features


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureWorkers:
    """Devices that compute features, one process each; the first process is the caller."""

    devices: tuple[torch.device, ...]
    weights_path: Path | None = None
    """Weights of the extractor, as `load_extractor` takes them."""

    @property
    def num_threads(self) -> int | None:
        """Threads of each process on the CPU; None: torch's default."""
        num_sharing = sum(device.type == "cpu" for device in self.devices)
        return max(1, num_cores() // num_sharing) if num_sharing > 1 else None


def plan_workers(
    devices: str | None = None,
    num_workers: int | None = None,
    weights_path: Path | None = None,
    launch: Processes | None = None,
) -> FeatureWorkers:
    """Choose the devices of the processes.

    Args:
        devices: A device, or several: `cuda:0,1`, `cuda:0,cuda:1`, `cpu`; None takes the best there is.
        num_workers: Processes in all, assigned to the devices in turn; None takes one a device.
        weights_path: Weights of the extractor.
        launch: The launch this process belongs to: of several GPUs, each process takes its own unless one is named.

    Raises:
        ConfigError: If no device has such a name, or there are fewer processes than devices.
        EnvironmentProblem: If this machine lacks it.
    """
    picked = [pick_device(name, launch or Processes()) for name in (_device_names(devices) if devices else [None])]
    if len({device.type for device in picked}) > 1:
        raise ConfigError(
            f"--device {devices}: features of two kinds of device differ in their last digits",
            hint="use several devices of one kind, such as cuda:0,1",
        )
    num = len(picked) if num_workers is None else num_workers
    if num < len(picked):
        raise ConfigError(
            f"{num} workers for {len(picked)} devices", hint="pass --workers as large as the number of devices, or none"
        )
    return FeatureWorkers(devices=tuple(picked[place % len(picked)] for place in range(num)), weights_path=weights_path)


def _device_names(devices: str) -> list[str]:
    """Split a list of devices; `cuda:0,1` means `cuda:0,cuda:1`."""
    names: list[str] = []
    for word in devices.split(","):
        kind = names[-1].split(":")[0] if names else ""
        names.append(f"{kind}:{word.strip()}" if word.strip().isdigit() and kind else word.strip())
    return names


def features_in_order(job: FeatureJob, workers: FeatureWorkers | None, reporter: Reporter) -> Iterator[ShardFeatures]:
    """Yield the features of every shard of the job, in order.

    Args:
        workers: Processes to start for it; they need a cache.
        reporter: Receives progress, and a remark if the cache can't be used.

    Raises:
        DataError: If an image can't be read, or its features are not finite.
    """
    num_done, num_images = 0, job.source.num_images

    def progress(num_new: int) -> None:
        nonlocal num_done
        num_done = min(num_done + num_new, num_images)
        reporter.progress(num_done, num_images, "images")

    with ExitStack() as stack:
        work = None
        if job.cache is not None:
            try:
                work = stack.enter_context(job.share(job.cache))
                job.cache.sweep()
            except EnvironmentProblem as err:
                reporter.note(f"features are not kept: {err.message}")
        if work is None:
            yield from shard_features(replace(job, cache=None), range(len(job.shards)), progress)
            return
        started = None
        if workers and len(workers.devices) > 1:
            reports = Path(stack.enter_context(TemporaryDirectory(prefix="medcli-workers-"))) / "reports.jsonl"
            started = _Started(stack.enter_context(spawned(_work, _orders(job, workers, reports))), reports)
        yield from _Gathering(job, work, started, progress, reporter).shards()


def assist(
    job: FeatureJob,
    progress: Callable[[int], None] = lambda _num_images: None,
    finished: Callable[[ShardFeatures], None] = lambda _shard: None,
) -> None:
    """Compute the shards no other process has claimed, and put their features into the cache.

    Args:
        job: The pass; it has a cache.
        progress: Called with the number of images done since the last call.
        finished: Called with each shard.

    Raises:
        DataError: If an image can't be read, or its features are not finite.
    """
    assert job.cache is not None
    with suppress(EnvironmentProblem), job.share(job.cache) as work:  # rank 0 notes it, and does all the work
        for shard in shard_features(job, work.claims(len(job.shards)), progress):
            if shard.key is None:
                return
            finished(shard)


class _Started:
    """Worker processes of this one, and what they report.

    Args:
        processes: The workers.
        reports: File to which they append a number of images, or a finished shard with the digests of its images.
    """

    def __init__(self, processes: Sequence[SpawnProcess], reports: Path) -> None:
        self._processes, self._lines = processes, SharedLines(reports)

    @property
    def are_gone(self) -> bool:
        """True if all have ended."""
        return not any(process.is_alive() for process in self._processes)

    def new_reports(self) -> tuple[dict[int, tuple[bytes, ...]], int]:
        """Return the digests of shards finished since the last call, and the number of images done."""
        shards, num_images = {}, 0
        for value in map(json.loads, self._lines.new_lines()):
            if isinstance(value, int):
                num_images += value
            else:
                shards[value["shard"]] = tuple(map(bytes.fromhex, value["digests"]))
        return shards, num_images


class _Gathering:
    """One pass over a set, shared with other processes."""

    def __init__(
        self,
        job: FeatureJob,
        work: SharedWork,
        started: _Started | None,
        progress: Callable[[int], None],
        reporter: Reporter,
    ) -> None:
        self._job, self._work, self._started = job, work, started
        self._progress, self._reporter = progress, reporter
        self._later: dict[int, ShardFeatures] = {}
        self._is_unsaved = False

    def shards(self) -> Iterator[ShardFeatures]:
        """Yield all shards in order, with their features."""
        due = 0
        for shard in shard_features(self._job, self._work.claims(len(self._job.shards)), self._progress):
            self._note(shard)
            self._read_reports()
            if shard.number == due:
                due += 1
                yield shard
            else:  # cached features need not stay in memory until they are due
                self._later[shard.number] = replace(shard, rows=None) if shard.key else shard
        for number in range(due, len(self._job.shards)):
            yield self._obtained(number)

    def _obtained(self, number: int) -> ShardFeatures:
        """Return a shard that was put aside or that another process has claimed."""
        named: ShardFeatures | None = None
        has_waited = False

        def result() -> ShardFeatures | None:
            nonlocal named, has_waited
            self._read_reports()
            if (known := self._later.pop(number, None)) and (found := self._job.cached(known)):
                return found
            if named and (found := self._job.cached(named)):
                self._progress(len(named.digests))
                return found
            # If the cache can't be written to, other processes can't hand over what they have.
            if self._is_unsaved:
                return self._computed(number)
            if has_waited and named is None and (self._started is None or self._started.are_gone):
                # The key under which another command caches features follows from the images alone.
                digests = next(read_shards(self._job, [number])).digests
                named = self._job.keyed(number, digests)
            has_waited = True
            return None

        return self._work.wait_for(number, result) or self._computed(number)

    def _computed(self, number: int) -> ShardFeatures:
        shard = next(shard_features(self._job, [number], self._progress))
        self._note(shard)
        return shard

    def _note(self, shard: ShardFeatures) -> None:
        if shard.problem and not self._is_unsaved:
            self._is_unsaved = True
            self._reporter.note(f"features are not kept: {shard.problem}")

    def _read_reports(self) -> None:
        if self._started:
            shards, num_images = self._started.new_reports()
            self._later |= {number: self._job.keyed(number, digests) for number, digests in shards.items()}
            if num_images:
                self._progress(num_images)


def _orders(job: FeatureJob, workers: FeatureWorkers, reports: Path) -> list[dict[str, object]]:
    """Return the arguments of `_work` in each process but this one."""
    names = ("source", "shards", "batch_size", "cache", "num_threads")
    common = {name: getattr(job, name) for name in names}
    common |= {"extractor": job.extractor.name, "weights_path": workers.weights_path, "reports": reports}
    return [{**common, "device": str(device)} for device in workers.devices[1 : len(job.shards)]]


def _work(*, reports: Path, device: str, extractor: str, weights_path: Path | None, **common: Any) -> None:
    """Worker: compute shards and report them; exit silently on errors, which the caller meets too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the caller ends its workers
    lines = SharedLines(reports)

    def progress(num_images: int) -> None:
        caller = parent_process()
        if caller is not None and not caller.is_alive():
            raise SystemExit
        lines.append(f"{num_images}\n")

    def finished(shard: ShardFeatures) -> None:
        digests = [digest.hex() for digest in shard.digests]
        lines.append(json.dumps({"shard": shard.number, "digests": digests}) + "\n")

    with suppress(MedcliError):
        loaded = load_extractor(extractor, weights_path=weights_path, device=use_device(device))
        assist(FeatureJob(extractor=loaded, **common), progress, finished)
