"""Numbered items that several processes complete in one folder, each item once.

The processes need no group and no connection, only the folder. Those with ranks (`torchrun`, `accelerate`, `srun`) or
shards divide the numbers and lock nothing. Others, such as one command started twice, take runs of free items from a
shared cursor, which needs locks that all of them see. At the end one of them, rank 0 of a launch, waits until the
others have left, and completes what a lost process had begun.
"""

from __future__ import annotations

import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from medcli.errors import EnvironmentProblem
from medcli.runtime.claim_runs import LONGEST_RUN, run_length
from medcli.runtime.locks import FolderLocks
from medcli.runtime.presence import LOST_S, Presence, Sign
from medcli.runtime.processes import Part, Processes

POLL_S = 0.1
LATE_S = 30.0
"""Seconds after which a process of a launch that has not entered the folder is not waited for."""
WITHOUT_LOCKS = "torchrun, accelerate, srun and sample --shard I/N need no locks"

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Claims:
    """Items that are claimed as they are iterated over; its length is the number missing at the start."""

    items: Iterator[int]
    num_missing: int
    share: int
    """An even share of them for each process that is there."""

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
        processes: The launch, by whose ranks and shards items are divided. None: results that may be made twice, so
            that locks are not checked; `wait_for` can wait for each of them.

    Raises:
        EnvironmentProblem: If the folder can't be written to, or the locks that sharing it needs do not work.
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
        self._processes, self._start = processes or Processes(), time.monotonic()
        self._takes_all = False
        self.presence = None if processes is None else Presence(lock_file.parent, processes)
        """This process's sign in the folder."""
        self._locks = None if self._processes.is_divided else FolderLocks(lock_file)
        self.is_alone = self._locks is not None and self._locks.is_alone
        """True while this process excludes others from the folder, or has outlasted them."""
        self._enter()
        self._look()

    def __enter__(self) -> SharedWork:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=error is not None)

    def close(self, *, failed: bool = False) -> None:
        """Release all claims and leave."""
        # First the sign, then the lock: a sign without its lock tells others that locks do not work.
        if self.presence:
            self.presence.leave(failed=failed and self._processes.count > 1)
        if self._locks:
            self._locks.close()

    def share(self) -> None:
        """Let other processes in."""
        if self._locks:
            self._locks.share()
        self.is_alone = False

    def wait_until_alone(self) -> None:
        """Release all claims and return once no other process is in the folder."""
        if self._locks:
            if self.presence:
                self.presence.leave()
            self._locks.wait_until_alone()
            self.is_alone = True
            self._enter()
        self._look()

    def claim(self, number: int) -> bool:
        """Claim a number unless another live process has it."""
        return self._locks is None or self._locks.claim(number)

    def claims(self, num_items: int, group_size: int = 1, batch: int | None = None) -> Claims:
        """Return the missing items in order, each taken when it is iterated over: no two live processes get the same.

        Args:
            num_items: Items of the whole work.
            group_size: Items that are always completed by one process: consecutive ones.
            batch: Groups that a process completes side by side; those of several batches may be taken at once. None:
                one group at a time is taken, where they are not divided.
        """

        def missing_of(group: int) -> list[int]:
            items = range(group * group_size, min((group + 1) * group_size, num_items))
            return [item for item in items if not self._is_done(item)]

        missing, num_missing = array("q"), 0
        for group in self._numbers(-(-num_items // group_size)):
            if items := missing_of(group):
                missing.append(group)
                num_missing += len(items)
        taken = self._taken(missing, batch, LONGEST_RUN // group_size) if self._locks and not self.is_alone else missing
        count = self.presence.count() if self.presence and self._locks else 1
        return Claims((item for group in taken for item in missing_of(group)), num_missing, -(-num_missing // count))

    def run(self, num_items: int, fill: Callable[[], None]) -> bool:
        """Complete all items.

        Args:
            num_items: Items of the whole work.
            fill: Completes what `claims` yields.

        Returns:
            True if all items are complete and this process is alone in the folder, so that it completes the folder.
            Rank 0 of a launch waits for the others to get there; of several shards, the last gets there.
        """
        if self._processes.is_divided:
            return self._run_divided(num_items, fill)
        while self._are_missing(range(num_items)):
            self.share()
            fill()
            self.wait_until_alone()
        if not self.is_alone:
            self.wait_until_alone()
        return True

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

    def _enter(self) -> None:
        """Make this process's sign and check that those of others go with the locks.

        A process with a sign holds its lock, so one that is alone by its lock and sees the sign of another live one
        has locks that do not reach it.
        """
        if not self.presence:
            return
        self.presence.enter()
        part = self._processes.part if self._processes.is_divided else None
        conflicts = {path: sign for path, sign in self.presence.others().items() if self._conflicts(sign, part)}
        if living := self.presence.living(conflicts):
            self.close()
            raise _refusal(self.presence.folder.parent, living[0], is_divided=part is not None)

    def _conflicts(self, other: Sign, part: Part | None) -> bool:
        if part is None and other.part is None:
            return self.is_alone
        return part is None or other.part is None or part.overlaps(other.part)

    def _numbers(self, num_groups: int) -> range:
        """Return the groups this process may take."""
        if self._locks or self.is_alone:
            return range(num_groups)
        part = self._processes.part
        return part.of_launch(num_groups) if self._takes_all else part.of(num_groups)

    def _taken(self, missing: Sequence[int], batch: int | None, longest: int) -> Iterator[int]:
        """Yield those of the missing groups that this process takes from the cursor, a run at a time."""
        assert self._locks
        place = 0

        def moved(start: int) -> int:
            nonlocal place
            place = bisect_left(missing, start)
            if not (rest := len(missing) - place):
                return start
            count = self.presence.count() if self.presence else 1
            length = 1 if batch is None else run_length(rest, count, batch, longest)
            return missing[place + length - 1] + 1

        while place < len(missing) and self._locks.cursor() <= missing[-1]:
            run = self._locks.advance(moved)
            while place < len(missing) and missing[place] < run.stop:
                if self.presence or self.claim(missing[place]):
                    yield missing[place]
                place += 1

    def _are_missing(self, items: range) -> bool:
        return not all(map(self._is_done, items))

    def _run_divided(self, num_items: int, fill: Callable[[], None]) -> bool:
        part, presence = self._processes.part, self.presence
        assert presence
        fill()
        if not self._processes.is_first:
            return False
        if self._wait_for_launch(part.of_launch(num_items)):
            self._takes_all = True
            fill()
        if part.shards > 1:
            # Before the look at others, so that of two shards that end together one sees that it is the last.
            presence.leave()
        self._refresh()
        others = {path: sign for path, sign in presence.others().items() if sign.part}
        if self._are_missing(range(num_items)) or presence.living(others):
            return False
        self.is_alone = True
        for path in presence.others():  # of lost processes
            presence.remove(path)
        self._mend()
        while self._are_missing(range(num_items)):  # lines whose pictures are gone
            fill()
            self._mend()
        return True

    def _wait_for_launch(self, items: range) -> bool:
        """Wait until the other processes of the launch have left; return True if one was lost."""
        assert self.presence
        part = self._processes.part
        while True:
            mates = {
                path: sign
                for path, sign in self.presence.others().items()
                if sign.part and part.is_of_launch(sign.part)
            }
            is_waiting = any(self.presence.lives(path, sign, LOST_S) is not False for path, sign in mates.items())
            self._refresh()
            is_late = part.ranks == 1 or time.monotonic() - self._start > LATE_S
            if not is_waiting and (is_late or not self._are_missing(items)):
                return bool(mates)
            time.sleep(POLL_S)


def missing_items(number: int, items: str, folder: Path) -> EnvironmentProblem:
    """Make the error of a launch some of whose processes have not done their part."""
    return EnvironmentProblem(
        f"{number} {items} of {folder} are missing: processes of this launch have ended early, or use another folder",
        hint="run the same command again",
    )


def _refusal(folder: Path, other: Sign, *, is_divided: bool) -> EnvironmentProblem:
    who = f"process {other.pid} of {other.host}"
    if is_divided or other.part is not None:
        return EnvironmentProblem(
            f"{who} fills {folder} too, and divides the work in another way or has the same part of it",
            hint="wait until it is done, or choose another --output",
        )
    return EnvironmentProblem(
        f"{who} fills {folder} too, but its locks are not seen here, so they can't share the work",
        hint=f"run one process, or divide the work: {WITHOUT_LOCKS}",
    )
