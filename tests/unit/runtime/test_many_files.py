from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medcli.errors import ConfigError, EnvironmentProblem
from medcli.runtime import many_files
from medcli.runtime.many_files import put_bytes

MAX_METADATA_CALLS = 4


def test_a_file_is_written_whole_and_replaces_an_older_one(tmp_path: Path) -> None:
    for content in (b"old", b"", bytes(range(256)) * 1000):
        put_bytes(tmp_path / "a.png", memoryview(content))
        assert (tmp_path / "a.png").read_bytes() == content
    assert os.listdir(tmp_path) == ["a.png"]


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    put_bytes(tmp_path / "b" / "c" / "a.png", b"x")
    assert (tmp_path / "b" / "c" / "a.png").read_bytes() == b"x"


def test_calls_that_write_a_part_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(many_files.os, "write", lambda file, content: real(file, bytes(content[:3])))
    put_bytes(tmp_path / "a", b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_a_folder_in_its_place_and_a_full_disk_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(ConfigError, match="a is a folder"):
        put_bytes(tmp_path / "a", b"x")

    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(many_files.os, "fsync", full)
    with pytest.raises(EnvironmentProblem, match="can't write .*b: No space left"):
        put_bytes(tmp_path / "b", b"x")
    assert os.listdir(tmp_path) == ["a"]


WRITE = """
import sys
from pathlib import Path
import numpy as np
from medcli.engine.image_records import Record, file_name
from medcli.engine.sample_folder import SampleFolder
pixels = np.zeros((8, 8, 3), np.uint8)
with SampleFolder(Path(sys.argv[1])) as folder:
    folder.work.share()
    for index in range(int(sys.argv[2])):
        folder.add(Record(index=index, label=0, file=file_name(index), switch_steps=(), gmacs=1.0), pixels)
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")
def test_a_picture_and_its_line_take_few_metadata_calls(tmp_path: Path) -> None:
    counts = [metadata_calls(tmp_path / str(number), number) for number in (20, 120)]
    assert (counts[1] - counts[0]) / 100 < MAX_METADATA_CALLS + 0.1  # the program itself is not quite steady


def metadata_calls(folder: Path, num_images: int) -> int:
    """Count the calls that name files or ask for their state while a process adds images to a folder."""
    folder.mkdir()
    log = folder.with_suffix(".strace")
    command = ["strace", "-f", "-e", "trace=%file,%desc", "-o", str(log)]
    subprocess.run([*command, sys.executable, "-c", WRITE, str(folder), str(num_images)], check=True)
    data = ("read", "write", "pread", "pwrite", "readv", "close", "fsync", "mmap", "lseek", "ioctl", "getdents")
    calls = [line.split(maxsplit=1)[1] for line in log.read_text(errors="replace").splitlines()]
    return sum("(" in call and not call.startswith((*data, "<", "+++", "---")) for call in calls)


def test_a_picture_asks_for_the_state_of_a_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def audit(event: str, args: tuple[object, ...]) -> None:
        if is_watched and event in ("open", "os.rename", "os.mkdir", "os.listdir", "os.scandir", "fcntl.flock"):
            asked.append(event)

    is_watched = False
    sys.addaudithook(audit)
    for name in ("stat", "lstat", "fstat"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, real=real, **more: (asked.append("stat"), real(*args, **more))[1])
    is_watched = True
    put_bytes(tmp_path / "a.png", b"x")
    is_watched = False
    assert sorted(asked) == ["fcntl.flock", "open", "os.rename", "stat"]
