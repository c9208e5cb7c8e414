"""Worker processes of this machine that live as long as a block of code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess


@contextmanager
def spawned(target: Callable[..., None], orders: Sequence[Mapping[str, object]]) -> Iterator[list[SpawnProcess]]:
    """Start worker processes, and end them when the block is left.

    Args:
        target: Called in each; a function of a module.
        orders: Its keyword arguments in each process.
    """
    context = get_context("spawn")  # CUDA and threads do not survive a fork
    processes: list[SpawnProcess] = []
    try:
        for order in orders:
            process = context.Process(target=target, kwargs=order, daemon=True)
            process.start()
            processes.append(process)
        yield processes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
