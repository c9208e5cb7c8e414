"""Temporaries of dead processes are swept, those of live ones are left alone: the other process is a fork."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from medcli.runtime import temporaries
from medcli.runtime.files import atomic_folder, atomic_path, write_text
from medcli.runtime.temporaries import STALE_S, is_temporary, make_temporary, replace_folder, sweep

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def child_that_writes(target: Path, *, is_folder: bool = False) -> int:
    """Start a process that is in the middle of writing."""
    ready, done = os.pipe()
    if not (child := os.fork()):
        try:
            with atomic_folder(target, mark="inner") if is_folder else atomic_path(target) as temporary:
                if is_folder:
                    (temporary / "inner").write_bytes(b"half")
                else:
                    temporary.write_bytes(b"half")
                os.write(done, b".")
                signal.pause()
        finally:
            os._exit(1)
    os.close(done)
    assert os.read(ready, 1) == b"."
    os.close(ready)
    return child


@pytest.mark.parametrize("is_folder", [False, True])
def test_the_next_run_removes_what_a_killed_one_left_and_nothing_of_a_live_one(tmp_path: Path, is_folder: bool) -> None:
    child = child_that_writes(tmp_path / "a.bin", is_folder=is_folder)
    (left,) = names_in(tmp_path)
    assert is_temporary(left)
    write_text(tmp_path / "a.bin", "whole")
    assert names_in(tmp_path) == sorted([left, "a.bin"])
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    write_text(tmp_path / "a.bin", "again", force=True)
    assert names_in(tmp_path) == ["a.bin"]


def test_equal_process_ids_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with atomic_path(tmp_path / "a.bin") as first, atomic_path(tmp_path / "a.bin") as second:
        first.write_bytes(b"1")
        second.write_bytes(b"2")
        assert first != second
    assert (tmp_path / "a.bin").read_bytes() == b"1"


def test_names_of_earlier_versions_are_swept_and_those_of_other_outputs_and_programs_are_not(tmp_path: Path) -> None:
    kept = [".b.tmp-7.bin", ".a.tmp-xyz.bin", ".a.tmp-7.png", "a.tmp-7.bin", ".tmpAb12Cd", ".a.tmp-.bin"]
    for name in (".a.tmp-4711.bin", *kept):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / ".a.tmp-1.bin")
    (tmp_path / ".a.tmp-2.bin").symlink_to(tmp_path / "a.tmp-7.bin")
    sweep(tmp_path, tmp_path / "a.bin")
    assert names_in(tmp_path) == sorted([*kept, ".a.tmp-1.bin", ".a.tmp-2.bin"])


def test_temporaries_of_the_safetensors_library_go_where_all_files_are_ours_once_they_are_old(tmp_path: Path) -> None:
    for name in (".tmpAb12Cd", ".tmpEf34Gh"):
        (tmp_path / name).touch()
    old = time.time() - STALE_S - 1
    os.utime(tmp_path / ".tmpAb12Cd", (old, old))
    sweep(tmp_path)
    assert len(names_in(tmp_path)) == 2
    sweep(tmp_path, owned=True)
    assert names_in(tmp_path) == [".tmpEf34Gh"]


def test_without_locks_age_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporaries, "HAS_LOCKS", False)
    for name in (".a.tmp-1.bin", ".a.tmp-2.bin"):
        (tmp_path / name).touch()
    old = time.time() - STALE_S - 1
    os.utime(tmp_path / ".a.tmp-1.bin", (old, old))
    sweep(tmp_path)
    assert names_in(tmp_path) == [".a.tmp-2.bin"]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "a." + "b" * 253, ".hidden", "a.tar.gz", "😀" * 62 + ".bin"])
def test_every_name_the_system_takes_has_a_temporary(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "x")
    child = child_that_writes(tmp_path / (name + "y")[-len(name) :]) if len(os.fsencode(name)) < 255 else 0
    if child:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        write_text(tmp_path / (name + "y")[-len(name) :], "x")
    assert all(not each.startswith(".") or each == name or not is_temporary(each) for each in names_in(tmp_path))


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_replaced_with_or_without_the_system_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(temporaries, "_exchange", lambda first, second: False)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "a").touch()
    new = make_temporary(tmp_path / "old", is_folder=True)
    (new.path / "b").touch()
    replace_folder(new.path, tmp_path / "old")
    new.close()
    assert names_in(tmp_path) == ["old"]
    assert names_in(tmp_path / "old") == ["b"]
