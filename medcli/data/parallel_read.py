"""Read many files at once, in threads: decoding an image and waiting for a disk release the GIL."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from medcli.errors import DataError

MAX_THREADS = 16

Item = TypeVar("Item")
Content = TypeVar("Content")


def read_all(read: Callable[[Item], Content], items: Sequence[Item], num_threads: int | None = None) -> list[Content]:
    """Read every item, in order.

    Args:
        read: Reads one; called from several threads.
        items: What to read.
        num_threads: Threads; None: one a core, `MAX_THREADS` at most. More are of use where the time is waiting.

    Raises:
        DataError: If some can't be read: how many, and what is wrong with the first.
    """

    def attempt(item: Item) -> Content | DataError:
        try:
            return read(item)
        except DataError as err:
            return err

    with ThreadPoolExecutor(num_threads or min(MAX_THREADS, os.cpu_count() or 1)) as threads:
        results = list(threads.map(attempt, items))
    raise_first([result for result in results if isinstance(result, DataError)])
    return [result for result in results if not isinstance(result, DataError)]


def raise_first(failures: Sequence[DataError]) -> None:
    """Raise the first of several errors, with their number, if there are any.

    Raises:
        DataError: The first.
    """
    if not failures:
        return
    first = failures[0]
    if len(failures) == 1:
        raise first
    raise DataError(f"{len(failures)} files can't be used, the first: {first.message}", hint=first.hint) from first
