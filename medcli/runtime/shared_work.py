"""Numbered items that several processes complete in one folder, each item once.

The processes need no group and no connection, only the folder: they are those of `torchrun` or `accelerate launch`, or
one command started twice. Each claims free items and completes them until none is left. Rank 0 then waits until the
others have left, and completes what a lost process had claimed: a claim is a lock that ends with its process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TypeVar

from medcli.errors import EnvironmentProblem
from medcli.runtime.locks import FolderLocks
from medcli.runtime.processes import Processes

POLL_S = 0.1
MAX_LINE = 1 << 20
"""Bytes of a line that are read; real ones have fewer."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Claims:
    """Items that are claimed as they are iterated over; its length is the number missing at the start."""

    items: Iterator[int]
    num_missing: int

    def __iter__(self) -> Iterator[int]:
        return self.items

    def __len__(self) -> int:
        return self.num_missing


class SharedWork:
    """One process's share of the work on a folder. Use as a context manager.

    Args:
        lock_file: Lock shared by the processes that work on the same items. It exists while one of them lives.
        is_done: Returns True for a complete item, as far as this process knows. Called often.
        refresh: Reads what other processes have completed.
        mend: Repairs the folder after killed processes; called whenever this process is alone in it.
        processes: The launch. One of several is refused where the file system has no locks.

    Raises:
        EnvironmentProblem: If the folder can't be written to or shared.
    """

    def __init__(
        self,
        lock_file: Path,
        *,
        is_done: Callable[[int], bool] = lambda _item: False,
        refresh: Callable[[], None] = lambda: None,
        mend: Callable[[], None] = lambda: None,
        processes: Processes | None = None,
    ) -> None:
        self._is_done, self._refresh, self._mend = is_done, refresh, mend
        self._processes = processes or Processes()
        self._locks = FolderLocks(lock_file)
        if not (self._locks.works or self._processes.is_alone):
            self._locks.close()
            raise EnvironmentProblem(
                f"the file system of {lock_file.parent} keeps no locks, so processes can't share it",
                hint="run one process, or choose another place with --output",
            )
        self._look()

    def __enter__(self) -> SharedWork:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release all claims and leave."""
        self._locks.close()

    @property
    def is_alone(self) -> bool:
        """True while this process excludes others from the folder."""
        return self._locks.is_alone

    def share(self) -> None:
        """Let other processes in."""
        self._locks.share()

    def wait_until_alone(self) -> None:
        """Release all claims and return once no other process is in the folder."""
        self._locks.wait_until_alone()
        self._look()

    def claim(self, number: int) -> bool:
        """Claim a number unless another live process has it."""
        return self._locks.claim(number)

    def claims(self, num_items: int, group_size: int = 1) -> Claims:
        """Return the missing items in order, each claimed when it is taken: no two live processes get the same.

        Args:
            num_items: Items of the whole work.
            group_size: Items that are always completed by one process: consecutive ones, claimed together.
        """

        def claimed() -> Iterator[int]:
            for start in range(0, num_items, group_size):
                group = range(start, min(start + group_size, num_items))
                if all(map(self._is_done, group)) or not self.claim(start // group_size):
                    continue
                self._refresh()  # another process may have completed them before the claim
                yield from (item for item in group if not self._is_done(item))

        return Claims(claimed(), sum(not self._is_done(item) for item in range(num_items)))

    def run(self, is_complete: Callable[[], bool], fill: Callable[[], None]) -> None:
        """Complete all items. Rank 0 returns when they are complete and it is alone in the folder.

        Args:
            is_complete: Returns True if no item is missing, as far as this process knows.
            fill: Completes what `claims` yields.
        """
        while not is_complete():
            self.share()
            fill()
            if not self._processes.is_first:
                return
            self.wait_until_alone()
        if self._processes.is_first and not self.is_alone:
            self.wait_until_alone()

    def wait_for(self, number: int, result: Callable[[], Result | None]) -> Result | None:
        """Wait for what another process has claimed.

        Args:
            number: The claimed number.
            result: Looks for that process's result.

        Returns:
            The result, or None if that process has ended without one: the number is claimed by this process then.
        """
        while (found := result()) is None and not self.claim(number):
            time.sleep(POLL_S)
        return found

    def _look(self) -> None:
        if self.is_alone:
            self._mend()
        else:
            self._refresh()


class SharedLines:
    """A text file to which several processes append whole lines.

    A line is one system call, so lines of several writers never mix and a killed writer leaves one torn line at most.

    Args:
        path: The file; made by the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file, self._read_to, self._opening = -1, 0, Lock()

    def append(self, line: str) -> None:
        """Write a line, its end included. Threads may do so at once."""
        with self._opening:
            if self._file < 0:
                self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.write(self._file, line.encode())

    def new_lines(self) -> Iterator[str]:
        """Yield the whole lines appended since the last call."""
        if not self.path.is_file() or self.path.stat().st_size == self._read_to:
            return
        with self.path.open("rb") as content:
            content.seek(self._read_to)
            while line := content.readline(MAX_LINE):
                if not line.endswith(b"\n") and len(line) < MAX_LINE:  # still being written, or torn
                    break
                self._read_to += len(line)
                yield line.decode("utf-8", "replace")

    def skip(self) -> None:
        """Treat all lines as read."""
        self._read_to = self.path.stat().st_size if self.path.is_file() else 0

    def close(self) -> None:
        """Close the file, before it is replaced."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


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
