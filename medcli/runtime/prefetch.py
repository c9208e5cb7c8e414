"""Prefetch values in a thread, such as the next batches while the network is busy with this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

Value = TypeVar("Value")

DEPTH = 2
"""Values prefetched by default: one that waits and one being made."""


@contextmanager
def prefetch(
    make: Callable[[int], Value], numbers: Iterable[int], depth: int = DEPTH
) -> Iterator[Iterator[tuple[int, Value]]]:
    """Make values in a thread ahead of their use.

    Leaving the block ends the thread; what was made and not taken is dropped.

    Args:
        make: Called in the thread, once a number and in their order. What it raises is raised where its value is taken.
        numbers: What to make.
        depth: Values made ahead.

    Yields:
        An iterator over each number and its value.
    """
    rest = iter(numbers)
    waiting: deque[tuple[int, Future[Value]]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="medcli-batches") as thread:

        def begin(count: int) -> None:
            waiting.extend((number, thread.submit(make, number)) for number in islice(rest, count))

        def taken() -> Iterator[tuple[int, Value]]:
            begin(depth)
            while waiting:
                number, future = waiting.popleft()
                begin(1)
                yield number, future.result()

        try:
            yield taken()
        finally:
            for _, future in waiting:
                future.cancel()
