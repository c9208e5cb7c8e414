"""Work that processes share: the other process is a fork."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from medcli.errors import EnvironmentProblem
from medcli.runtime import locks, presence, shared_work
from medcli.runtime.claim_runs import run_length
from medcli.runtime.processes import Processes
from medcli.runtime.shared_lines import SharedLines
from medcli.runtime.shared_work import SharedWork
from tests.unit.runtime.test_claim_runs import runs_of

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


@contextmanager
def another_process(action: Callable[[], object], *, is_ready: bool = True) -> Iterator[int]:
    """A process that does something, then waits until it is killed; not waited for unless it is to be ready."""
    ready, done = os.pipe()
    if not (child := os.fork()):
        try:
            action()
            os.write(done, b".")
            signal.pause()
        finally:
            os._exit(1)
    os.close(done)
    assert not is_ready or os.read(ready, 1) == b"."
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
        folder.mkdir(exist_ok=True)
        self.num_mended = 0
        self.work = SharedWork(folder / "lock", is_done=self.is_done, mend=self.mend, processes=processes)

    def is_done(self, item: int) -> bool:
        return (self.folder / str(item)).exists()

    def mend(self) -> None:
        self.num_mended += 1

    def make(self, item: int) -> None:
        (self.folder / str(item)).touch(exist_ok=False)


def claim_first(
    folder: Path, number: int, group_size: int = 1, processes: Processes | None = None
) -> Callable[[], object]:
    def act() -> object:
        other = Files(folder, processes)
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


def test_an_item_completed_before_it_is_reached_is_not_made_twice(tmp_path: Path) -> None:
    known: set[int] = set()
    with SharedWork(tmp_path / "lock", is_done=known.__contains__) as work:
        claims = iter(work.claims(3))
        assert next(claims) == 0
        known.add(1)
        assert list(claims) == [2]


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

        assert files.work.run(8, fill)
    assert left == [5, 3]
    assert files.work.is_alone
    assert files.num_mended == 3  # at first, and after each round


def test_other_ranks_make_their_part_and_leave(tmp_path: Path) -> None:
    files = Files(tmp_path, Processes(rank=1, count=2))
    assert not files.work.run(8, lambda: made(files, 8))
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["1", "3", "5", "7"]


def made(files: Files, num_items: int) -> None:
    for item in files.work.claims(num_items):
        files.make(item)


def of_rank(folder: Path, rank: int, count: int, *, makes: int = 8, shard: int = 0, num_shards: int = 1) -> bool:
    files = Files(folder, Processes(rank=rank, count=count, shard=shard, num_shards=num_shards))
    with files.work:
        return files.work.run(makes, lambda: made(files, makes))


def test_rank_0_waits_for_the_others_and_completes_the_folder(tmp_path: Path) -> None:
    def slow_rank() -> None:
        files = Files(tmp_path, Processes(rank=1, count=2))
        with files.work:
            os.write(told, b".")
            time.sleep(0.3)
            files.work.run(8, lambda: made(files, 8))

    ready, told = os.pipe()
    with another_process(slow_rank, is_ready=False):
        assert os.read(ready, 1) == b"."
        assert of_rank(tmp_path, 0, 2)
    assert all((tmp_path / str(item)).exists() for item in range(8))


def test_rank_0_makes_the_part_of_a_rank_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_work, "LATE_S", 0.0)
    with another_process(lambda: Files(tmp_path, Processes(rank=1, count=2))) as child:
        kill(child)
    assert of_rank(tmp_path, 0, 2)
    assert all((tmp_path / str(item)).exists() for item in range(8))
    assert not (tmp_path / ".processes").exists()


def test_the_part_of_a_rank_that_never_came_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_work, "LATE_S", 0.0)
    assert not of_rank(tmp_path, 0, 2)
    assert [item for item in range(8) if (tmp_path / str(item)).exists()] == [0, 2, 4, 6]


def test_the_last_of_several_shards_completes_the_folder(tmp_path: Path) -> None:
    assert [of_rank(tmp_path, 0, 1, shard=shard, num_shards=3) for shard in (2, 0, 1)] == [False, False, True]


def test_the_same_part_twice_at_a_time_is_refused_and_so_are_claims_beside_parts(tmp_path: Path) -> None:
    with another_process(lambda: Files(tmp_path, Processes(rank=1, count=2))):
        for other in (Processes(rank=1, count=2), Processes(rank=0, count=3), Processes()):
            with pytest.raises(EnvironmentProblem, match="divides the work in another way"):
                Files(tmp_path, other)
        Files(tmp_path, Processes(rank=0, count=2)).work.close()


def test_a_run_takes_two_lock_calls_and_the_end_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, calls, lockf = Files(tmp_path, Processes()), list[int](), locks.fcntl.lockf
    assert files.work.presence
    monkeypatch.setattr(files.work.presence, "count", lambda: 8)
    files.work.share()
    monkeypatch.setattr(locks.fcntl, "lockf", lambda *args: calls.append(1) or lockf(*args))
    claims = files.work.claims(1000, batch=16)
    assert claims.share == 125
    first, other = iter(claims), iter(files.work.claims(1000, batch=16))
    assert [next(first) for _ in range(81)] == list(range(81))  # 80 are most of 3/4 of 125
    assert list(other) == list(range(80 + run_length(920, 8, 16), 1000))
    assert len(calls) == 2 * len(runs_of(1000, 8, 16))
    num_calls = len(calls)
    assert list(first) == list(range(81, 80 + run_length(920, 8, 16)))
    assert not list(files.work.claims(1000, batch=16))
    assert len(calls) == num_calls


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


def no_locks(*args: Any) -> None:
    raise OSError(errno.ENOLCK, "no locks")


@pytest.mark.parametrize("lockf", [no_locks, lambda *args: None], ids=["ENOLCK", "always succeed"])
def test_where_locks_do_not_reach_others_one_works_and_others_are_refused_but_not_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lockf: Callable[..., None]
) -> None:
    monkeypatch.setattr(locks.fcntl, "lockf", lockf)
    with another_process(claim_first(tmp_path / "plain", 2, processes=Processes())):
        with pytest.raises(EnvironmentProblem, match="locks are not seen") as caught:
            Files(tmp_path / "plain", Processes())
        assert "--shard" in str(caught.value.hint)
    with Files(tmp_path / "plain", Processes()).work as work:  # the other one is dead
        assert work.is_alone
        assert list(work.claims(2)) == [0, 1]
    assert of_rank(tmp_path, 0, 1)
    of_rank(tmp_path / "ranks", 1, 2)
    assert of_rank(tmp_path / "ranks", 0, 2)


def test_a_sign_of_another_machine_is_dead_if_it_does_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "WATCH_S", 0.3)
    monkeypatch.setattr(presence, "BEAT_S", 0.1)
    monkeypatch.setattr(locks.fcntl, "lockf", lambda *args: None)

    def elsewhere() -> object:
        monkeypatch.setattr(presence, "_machine", lambda: "another")
        return Files(tmp_path, Processes())

    with another_process(elsewhere), pytest.raises(EnvironmentProblem, match="locks are not seen"):
        Files(tmp_path, Processes())
    with Files(tmp_path, Processes()).work as work:
        assert work.is_alone


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
