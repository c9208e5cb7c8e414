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


def read_all(read: Callable[[Item], Content], items: Sequence[Item]) -> list[Content]:
    """Read every item, in order.

    Args:
        read: Reads one; called from several threads.
        items: What to read.

    Raises:
        DataError: If some can't be read: how many, and what is wrong with the first.
    """

    def attempt(item: Item) -> Content | DataError:
        try:
            return read(item)
        except DataError as err:
            return err

    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as threads:
        results = list(threads.map(attempt, items))
    if failures := [result for result in results if isinstance(result, DataError)]:
        first = failures[0]
        if len(failures) == 1:
            raise first
        raise DataError(f"{len(failures)} files can't be used, the first: {first.message}", hint=first.hint) from first
    return [result for result in results if not isinstance(result, DataError)]
