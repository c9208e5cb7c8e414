"""Locks between processes: the other process is a fork."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from medcli.errors import EnvironmentProblem
from medcli.runtime.locks import FolderLocks

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


@contextmanager
def another_process(path: Path, action: Callable[[FolderLocks], None]) -> Iterator[int]:
    """A process that does something with its locks, then keeps them until it is killed."""
    ready, done = os.pipe()
    if not (child := os.fork()):
        action(FolderLocks(path))
        os.write(done, b".")
        time.sleep(600)
    os.read(ready, 1)
    try:
        yield child
    finally:
        kill(child)
        os.close(ready)
        os.close(done)


def kill(child: int) -> None:
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def claim_three(locks: FolderLocks) -> None:
    locks.share()
    assert all(locks.claim(number) for number in (0, 1, 5))


def test_no_number_is_given_to_two_and_a_dead_process_holds_none(tmp_path: Path) -> None:
    with another_process(tmp_path / "lock", claim_three) as child:
        locks = FolderLocks(tmp_path / "lock")
        assert not locks.is_alone
        assert [locks.claim(number) for number in (0, 1, 2, 5, 6)] == [False, False, True, False, True]
        kill(child)
        assert locks.claim(5)
        locks.close()


def test_the_first_is_alone_until_it_shares_and_the_last_takes_the_file_along(tmp_path: Path) -> None:
    with another_process(tmp_path / "new/lock", FolderLocks.share) as child:
        locks = FolderLocks(tmp_path / "new/lock")
        assert not locks.is_alone
        locks.close()
        assert (tmp_path / "new/lock").exists()
        kill(child)
    locks = FolderLocks(tmp_path / "new/lock")
    assert locks.is_alone
    locks.close()
    assert not (tmp_path / "new/lock").exists()


def test_waiting_ends_when_the_others_are_gone(tmp_path: Path) -> None:
    with another_process(tmp_path / "lock", FolderLocks.share) as child:
        locks = FolderLocks(tmp_path / "lock")
        if not (killer := os.fork()):
            time.sleep(0.2)
            os.kill(child, signal.SIGKILL)
            os._exit(0)
        start = time.monotonic()
        locks.wait_until_alone()
        assert locks.is_alone
        assert time.monotonic() - start > 0.1
        os.waitpid(killer, 0)
        locks.close()


def test_who_waited_for_a_file_that_went_away_takes_the_new_one(tmp_path: Path) -> None:
    locks = FolderLocks(tmp_path / "lock")
    if not (child := os.fork()):
        other = FolderLocks(tmp_path / "lock")  # waits: the parent is alone
        os._exit(0 if other.is_alone and (tmp_path / "lock").exists() else 1)
    time.sleep(0.2)
    locks.close()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_place_that_can_not_be_written_to_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentProblem, match="can't write"):
        FolderLocks(tmp_path / "file/lock")


def test_a_full_disk_is_found_on_entering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(EnvironmentProblem, match="No space left"):
        FolderLocks(tmp_path / "x.lock")
