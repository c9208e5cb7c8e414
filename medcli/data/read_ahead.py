"""Read batches of equal rows from a disk in threads, some of them ahead of their use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from medcli.data.parallel_read import MAX_THREADS, raise_first
from medcli.errors import DataError

Place = TypeVar("Place")


class _Coming(NamedTuple):
    """A batch that is being read."""

    content: npt.NDArray[np.uint8]
    tasks: list[Future[list[DataError]]]


class ReadAhead(Generic[Place]):
    """Reads batches of rows in threads, some of them ahead of their use.

    There are more threads than cores: they wait for a disk or a file server, which answers many requests at once.

    Args:
        read: Fills a row from its place; called from several threads.
        row_bytes: Size of a row.
    """

    MAX_COMING = 16
    """Batches that are kept until they are asked for; of more, the oldest is dropped."""

    def __init__(self, read: Callable[[Place, memoryview], None], row_bytes: int) -> None:
        self._read, self._row_bytes = read, row_bytes
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="medcli-read")
        self._coming: dict[tuple[Place, ...], _Coming] = {}

    def expect(self, places: Sequence[Place]) -> None:
        """Begin to read a batch that `read` will be called for."""
        key = tuple(places)
        if key in self._coming:
            return
        while len(self._coming) >= self.MAX_COMING:
            for task in self._coming.pop(next(iter(self._coming))).tasks:
                task.cancel()
        self._coming[key] = self._begin(places)

    def read(self, places: Sequence[Place]) -> npt.NDArray[np.uint8]:
        """(B, bytes) rows of a batch, in order.

        Raises:
            DataError: If some can't be read: how many, and what is wrong with the first.
        """
        key = tuple(places)
        content, tasks = self._coming.pop(key) if key in self._coming else self._begin(places)
        raise_first([failure for task in tasks for failure in task.result()])
        return content

    def _begin(self, places: Sequence[Place]) -> _Coming:
        content = np.empty((len(places), self._row_bytes), np.uint8)  # one, for threads allocate slowly

        def read_rows(rows: range) -> list[DataError]:
            return [failure for row in rows if (failure := self._failure(places[row], content[row].data))]

        size = -(-len(places) // MAX_THREADS) or 1
        parts = [range(len(places))[start : start + size] for start in range(0, len(places), size)]
        return _Coming(content, [self._threads.submit(read_rows, part) for part in parts])

    def _failure(self, place: Place, row: memoryview) -> DataError | None:
        try:
            self._read(place, row)
        except DataError as err:
            return err
        return None
