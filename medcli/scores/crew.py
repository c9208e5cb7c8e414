"""Processes of this machine that work on the shards of an image set beside the one that asked for them.

They share the cache and its claims with it and tell it which shards they have finished. One that dies costs the shard
it was at: its claims end with it, and the others take them over.
"""

from __future__ import annotations

import os
import signal
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty

import torch

from medcli.data.images import ImageSource
from medcli.errors import ConfigError, MedcliError
from medcli.runtime.device import own_device, pick_device
from medcli.runtime.processes import Processes
from medcli.scores.feature_cache import FeatureCache
from medcli.scores.registry import load_extractor
from medcli.scores.shard_work import Job, Part, claimed, work


@dataclass(frozen=True, kw_only=True, slots=True)
class Crew:
    """Who computes features: one process for each device, the first being the caller's own."""

    devices: tuple[torch.device, ...]
    weights_path: Path | None = None
    """Weights of the extractor, as `load_extractor` takes them."""

    @property
    def num_threads(self) -> int | None:
        """Threads each process that computes on the CPU may use; None leaves them as they are."""
        num_sharing = sum(device.type == "cpu" for device in self.devices)
        return max(1, num_cores() // num_sharing) if num_sharing > 1 else None


def plan_crew(
    devices: str | None = None,
    num_workers: int | None = None,
    weights_path: Path | None = None,
    launch: Processes | None = None,
) -> Crew:
    """Turn what a user asks for into a crew.

    Args:
        devices: A device, or several: `cuda:0,1`, `cuda:0,cuda:1`, `cpu`; None takes the best there is.
        num_workers: Processes in all, given the devices in turn; None takes one a device.
        weights_path: Weights of the extractor.
        launch: Which process of a launch this is: of several GPUs, each takes its own where none is named; None if
            there was no launch.

    Raises:
        ConfigError: If no device has such a name, or there are fewer processes than devices.
        EnvironmentProblem: If this machine lacks it.
    """
    picked = [own_device(name, launch or Processes()) for name in (_device_names(devices) if devices else [None])]
    num = len(picked) if num_workers is None else num_workers
    if num < len(picked):
        raise ConfigError(
            f"{num} workers for {len(picked)} devices", hint="pass --workers as large as the number of devices, or none"
        )
    return Crew(devices=tuple(picked[place % len(picked)] for place in range(num)), weights_path=weights_path)


def _device_names(devices: str) -> list[str]:
    """`cuda:0,1` means `cuda:0,cuda:1`."""
    names: list[str] = []
    for word in devices.split(","):
        kind = names[-1].split(":")[0] if names else ""
        names.append(f"{kind}:{word.strip()}" if word.strip().isdigit() and kind else word.strip())
    return names


def num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True, slots=True)
class _Order:
    """What another process is told to do."""

    source: ImageSource
    shards: tuple[range, ...]
    batch_size: int
    cache: FeatureCache
    extractor: str
    weights_path: Path | None
    device: str
    num_threads: int | None


class Helpers:
    """The other processes of a crew, at work until they find nothing more to claim or this object is left.

    Args:
        crew: Who they are.
        job: What they do.
        cache: How features come back: the job's.
    """

    def __init__(self, crew: Crew, job: Job, cache: FeatureCache) -> None:
        context = get_context("spawn")  # CUDA and threads do not survive a fork
        self._news: Queue[Part | int] = context.Queue()
        self._processes: list[SpawnProcess] = []
        for device in crew.devices[1 : len(job.shards)]:
            order = _Order(
                source=job.source,
                shards=job.shards,
                batch_size=job.batch_size,
                cache=cache,
                extractor=job.extractor.name,
                weights_path=crew.weights_path,
                device=str(device),
                num_threads=job.num_threads,
            )
            self._processes.append(context.Process(target=_help, args=(order, self._news), daemon=True))

    def __enter__(self) -> Helpers:
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *_error: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()

    @property
    def are_gone(self) -> bool:
        """Whether none is at work any more."""
        return not any(process.is_alive() for process in self._processes)

    def news(self) -> tuple[list[Part], int]:
        """Shards finished and number of images done since the last call."""
        parts: list[Part] = []
        num_images = 0
        while True:
            try:
                item = self._news.get_nowait()
            except Empty:
                return parts, num_images
            if isinstance(item, Part):
                parts.append(item)
            else:
                num_images += item


def _help(order: _Order, news: Queue[Part | int]) -> None:
    """Work on what is free, tell what is done, and end quietly: what is left over, the caller does or complains of."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the caller ends its helpers

    def told(num_images: int) -> None:
        caller = parent_process()
        if caller is not None and not caller.is_alive():
            news.cancel_join_thread()
            raise SystemExit
        news.put(num_images)

    with suppress(MedcliError):
        device = pick_device(order.device)
        job = Job(
            source=order.source,
            extractor=load_extractor(order.extractor, weights_path=order.weights_path, device=device),
            shards=order.shards,
            batch_size=order.batch_size,
            cache=order.cache,
            num_threads=order.num_threads,
        )
        with closing(job.claims(order.cache)) as locks:
            for part in work(job, claimed(locks, len(job.shards)), told):
                if part.key is None:
                    return
                news.put(replace(part, rows=None))
