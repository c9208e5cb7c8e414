"""Many processes fill one folder, on file systems that keep promises and on those that do not: forks and shims."""

from __future__ import annotations

import ctypes
import errno
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from medcli.engine.image_records import Record
from medcli.engine.sample_folder import SampleFolder
from medcli.engine.sessions import Session
from medcli.runtime import locks
from medcli.runtime.processes import Processes
from tests.unit.engine.test_sample_folder import picture

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


def good(monkeypatch: pytest.MonkeyPatch) -> None:
    """A local file system."""


def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(locks.fcntl, "lockf", refuse)


def with_idle_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks.fcntl, "lockf", lambda *args: None)


def with_stale_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS: a client that appends writes at the end of the file it last saw, here when it opened it."""
    ends, real_open, real_write = dict[int, int](), os.open, os.write

    def opened(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        file = real_open(path, flags & ~os.O_APPEND, *args, **kwargs)
        ends.pop(file, None)
        if flags & os.O_APPEND:
            ends[file] = os.fstat(file).st_size
        return file

    def written(file: int, content: bytes) -> int:
        if file not in ends:
            return real_write(file, content)
        ends[file] += os.pwrite(file, content, ends[file])
        return len(content)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "write", written)


def fill(path: Path, num_images: int, processes: Processes, pictures: int) -> bool:
    """Do what a process of `sample` does, and note each picture it makes in a pipe."""
    with SampleFolder(path, processes) as folder:

        def make() -> None:
            before = folder.num_made
            for index in folder.work.claims(num_images, batch=4):
                os.write(pictures, f"{index}\n".encode())
                name = f"{index:06d}.png"
                folder.add(Record(index=index, label=0, file=name, switch_steps=(), gmacs=1.0), picture(0))
            if folder.num_made > before:
                folder.end_session(Session(images=folder.num_made - before, seconds=1.0, start=time.time()))

        is_last = folder.work.run(num_images, make)
        if is_last:
            # Plain processes that end later add their own session, as `sample` does in the manifest.
            lines = {f"{session.start} {session.images}" for session in folder.sessions}
            with suppress(FileNotFoundError):
                lines.update((path / "sessions").read_text().splitlines())
            (path / "sessions").write_text("\n".join(lines))
        return is_last


def as_it_is(path: Path, number: int) -> Path:
    """Stay on this machine."""
    return path


def on_own_machine(path: Path, number: int) -> Path:
    """Enter a mount and a process namespace in which the folder has a path of its own, as on another machine."""
    libc, own = ctypes.CDLL(None, use_errno=True), path.with_name(f"machine{number}")

    def mount(source: Path | str, target: Path | str, kind: str | None, flags: int) -> None:
        if libc.mount(*(text and os.fsencode(text) for text in (source, target, kind)), flags, None):
            raise OSError(ctypes.get_errno(), f"can't mount {target}")

    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID):
        raise OSError(ctypes.get_errno(), "no namespaces")
    if child := os.fork():  # which is in the new process namespace
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc", 0)
    own.mkdir()
    mount(path.parent / "shared", own, None, MS_BIND)
    return own / path.name


CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x20000, 0x10000000, 0x20000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000


def has_namespaces(path: Path) -> bool:
    """Return whether the system lets this process make namespaces and mount in them."""
    if not (child := os.fork()):
        code = 1
        try:
            on_own_machine(path, -1)
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def run_all(
    path: Path, num_images: int, launches: list[Processes], machine: Callable[[Path, int], Path] = as_it_is
) -> list[int]:
    """Run the processes side by side; return the pictures they made."""
    reader, writer = os.pipe()
    children = []
    for number, processes in enumerate(launches):
        if not (child := os.fork()):
            code = 1
            try:
                fill(machine(path, number), num_images, processes, writer)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    os.close(writer)
    with os.fdopen(reader) as made:
        pictures = [int(line) for line in made]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * len(children)
    return pictures


def check(path: Path, num_images: int, pictures: list[int]) -> None:
    """Check that each picture was made once, has its line, and that nothing else is left."""
    assert sorted(pictures) == list(range(num_images))
    lines = (path / "images.jsonl").read_text().splitlines()
    found = [record for line in lines if (record := Record.of_line(line))]
    assert sorted(record.index for record in found) == list(range(num_images))
    assert len(lines) == num_images
    names = {entry.name for entry in path.iterdir()} - {"sessions"}
    assert names == {"images.jsonl", *(f"{index:06d}.png" for index in range(num_images))}


def made_in_sessions(path: Path) -> list[int]:
    """Return the images of each process's session."""
    return sorted(int(line.split()[1]) for line in (path / "sessions").read_text().splitlines())


RANKS = [Processes(rank=rank, count=8) for rank in range(8)]
FILE_SYSTEMS = (good, without_locks, with_idle_locks, with_stale_ends)


@pytest.mark.parametrize("file_system", FILE_SYSTEMS)
def test_ranks_make_each_picture_once_on_any_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_system: Callable[[pytest.MonkeyPatch], None]
) -> None:
    file_system(monkeypatch)
    path = tmp_path / "out"
    check(path, 100, run_all(path, 100, RANKS))
    assert made_in_sessions(path) == [12] * 4 + [13] * 4


@pytest.mark.parametrize("number", [4, pytest.param(32, marks=pytest.mark.slow)])
@pytest.mark.parametrize("file_system", [good, with_stale_ends])
def test_plain_processes_make_each_picture_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file_system: Callable[[pytest.MonkeyPatch], None],
    number: int,
) -> None:
    file_system(monkeypatch)
    path = tmp_path / "out"
    check(path, 12 * number, run_all(path, 12 * number, [Processes()] * number))
    assert sum(made_in_sessions(path)) == 12 * number


@pytest.mark.parametrize("number", [4, pytest.param(32, marks=pytest.mark.slow)])
@pytest.mark.parametrize("divides", [True, False], ids=["ranks", "plain"])
def test_processes_of_several_machines_make_each_picture_once(tmp_path: Path, number: int, divides: bool) -> None:
    path, shared = tmp_path / "out", tmp_path / "shared"
    shared.mkdir()
    if not has_namespaces(path):
        pytest.skip("no mount namespaces on this system")
    launches = [Processes(rank=rank, count=number) if divides else Processes() for rank in range(number)]
    pictures = run_all(path, 12 * number, launches, on_own_machine)
    check(shared / "out", 12 * number, pictures)
    sessions = made_in_sessions(shared / "out")
    assert sum(sessions) == 12 * number
    assert not divides or sessions == [12] * number


def test_shards_of_several_ranks_make_each_picture_once(tmp_path: Path) -> None:
    path = tmp_path / "out"
    parts = [Processes(rank=rank, count=2, shard=shard, num_shards=3) for rank in range(2) for shard in range(3)]
    check(path, 60, run_all(path, 60, parts))
    assert made_in_sessions(path) == [10] * 6


def test_a_folder_that_was_begun_in_one_file_by_all_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "out"
    check(path, 20, run_all(path, 20, [Processes()]))
    lines = (path / "images.jsonl").read_text().splitlines(keepends=True)
    for index in (3, 4):
        (path / f"{index:06d}.png").unlink()
    # Lost to writers that mixed: one torn line in the middle, one at the end, one picture without a line.
    (path / "images.jsonl").write_text(
        "".join(lines[:9]) + lines[9][:20] + "\n" + "".join(lines[10:-1]) + lines[-1][:9]
    )
    pictures = run_all(path, 24, RANKS)
    assert sorted(pictures) == [3, 4, 9, 19, 20, 21, 22, 23]
    check(path, 24, [*range(3), *range(5, 9), *range(10, 19), *pictures])


def test_lines_of_a_killed_process_count_and_are_merged_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "out"
    if not (child := os.fork()):
        with SampleFolder(path, Processes(rank=1, count=2)) as folder:
            folder.add(Record(index=1, label=0, file="000001.png", switch_steps=(), gmacs=1.0), picture(0))
            os._exit(0)
    os.waitpid(child, 0)
    assert len(list((path / ".processes").glob("*.jsonl"))) == 1
    pictures = run_all(path, 4, [Processes()])
    assert sorted(pictures) == [0, 2, 3]
    check(path, 4, [1, *pictures])
