"""Work that processes share: the other process is a fork."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from medcli.errors import EnvironmentProblem
from medcli.runtime import locks
from medcli.runtime.processes import Processes
from medcli.runtime.shared_work import SharedLines, SharedWork

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


@contextmanager
def another_process(action: Callable[[], object]) -> Iterator[int]:
    """A process that does something, then waits until it is killed."""
    ready, done = os.pipe()
    if not (child := os.fork()):
        try:
            action()
            os.write(done, b".")
            signal.pause()
        finally:
            os._exit(1)
    os.close(done)
    assert os.read(ready, 1) == b"."
    try:
        yield child
    finally:
        os.close(ready)
        kill(child)


def kill(child: int) -> None:
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


class Files:
    """Items that are files of a folder."""

    def __init__(self, folder: Path, processes: Processes | None = None) -> None:
        self.folder = folder
        self.num_mended = 0
        self.work = SharedWork(folder / "lock", is_done=self.is_done, mend=self.mend, processes=processes)

    def is_done(self, item: int) -> bool:
        return (self.folder / str(item)).exists()

    def mend(self) -> None:
        self.num_mended += 1

    def make(self, item: int) -> None:
        (self.folder / str(item)).touch(exist_ok=False)


def claim_first(folder: Path, number: int, group_size: int = 1) -> Callable[[], object]:
    def act() -> object:
        other = Files(folder)
        other.work.share()
        claims = iter(other.work.claims(8, group_size))
        return other, [next(claims) for _ in range(number)]

    return act


def test_items_claimed_by_a_live_process_are_left_to_it(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.work.share()
    files.make(4)
    with another_process(claim_first(tmp_path, 2)):
        claims = files.work.claims(8)
        assert len(claims) == 7
        assert list(claims) == [2, 3, 5, 6, 7]
    files.work.wait_until_alone()
    assert list(files.work.claims(8)) == [0, 1, 2, 3, 5, 6, 7]


def test_items_of_a_group_are_claimed_together(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.work.share()
    with another_process(claim_first(tmp_path, 4, group_size=3)):
        assert list(files.work.claims(8, 3)) == [6, 7]


def test_an_item_completed_between_the_look_and_the_claim_is_not_made_twice(tmp_path: Path) -> None:
    known: set[int] = set()
    work = SharedWork(tmp_path / "lock", is_done=known.__contains__, refresh=lambda: known.add(0))
    assert list(work.claims(2)) == [1]


def test_rank_0_completes_what_a_lost_process_had_claimed_and_is_alone_then(tmp_path: Path) -> None:
    files, left = Files(tmp_path), list[int]()
    files.work.share()
    with another_process(claim_first(tmp_path, 3)) as child:

        def fill() -> None:
            made = list(files.work.claims(8))
            left.append(len(made))
            for item in made:
                files.make(item)
            kill(child)

        files.work.run(lambda: all(map(files.is_done, range(8))), fill)
    assert left == [5, 3]
    assert files.work.is_alone
    assert files.num_mended == 3  # at first, and after each round


def test_other_ranks_leave_when_nothing_is_free(tmp_path: Path) -> None:
    files = Files(tmp_path, Processes(rank=1, count=2))
    files.work.share()
    with another_process(claim_first(tmp_path, 3)):
        files.work.run(lambda: False, lambda: [files.make(item) for item in files.work.claims(8)] and None)
    assert sum(map(files.is_done, range(8))) == 5


def test_waiting_gives_the_result_or_the_claim_of_a_process_that_ended(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.work.share()
    with another_process(claim_first(tmp_path, 2)) as child:
        results = iter([None, "made"])
        assert files.work.wait_for(0, lambda: next(results)) == "made"

        def look() -> None:
            kill(child)

        assert files.work.wait_for(1, look) is None
        assert files.work.claim(1)


def test_several_processes_are_refused_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*args: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(locks.fcntl, "lockf", no_locks)
    with pytest.raises(EnvironmentProblem, match="keeps no locks"):
        SharedWork(tmp_path / "lock", processes=Processes(rank=0, count=2))
    with SharedWork(tmp_path / "lock") as work:
        assert work.is_alone
        assert list(work.claims(2)) == [0, 1]


def test_lines_are_read_once_they_are_whole(tmp_path: Path) -> None:
    lines, other = SharedLines(tmp_path / "lines"), SharedLines(tmp_path / "lines")
    assert not list(lines.new_lines())
    other.append("a\n")
    lines.append("b")
    assert list(lines.new_lines()) == ["a\n"]
    lines.append("c\n")
    assert list(lines.new_lines()) == ["bc\n"]
    other.skip()
    assert not list(other.new_lines())
