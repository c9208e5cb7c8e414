"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
from safetensors import SafetensorError

from medcli.errors import CheckpointError, ConfigError, DataError, EnvironmentProblem
from medcli.runtime import files
from medcli.runtime.files import atomic_path, file_sha256, require_regular, require_space, write_text

atomic_folder = partial(files.atomic_folder, mark="mark")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_gets_its_name_when_the_block_ends(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.npz") as temporary:
        temporary.write_bytes(b"whole")
        assert temporary.suffix == ".npz"
        assert not (tmp_path / "a.npz").exists()
    assert (tmp_path / "a.npz").read_bytes() == b"whole"
    assert names_in(tmp_path) == ["a.npz"]


def fail_after(write: Callable[[Path], object], manager: AbstractContextManager[Path], error: BaseException) -> None:
    """Write something and fail, inside an atomic block."""
    with manager as temporary:
        write(temporary)
        raise error


def write_half(temporary: Path) -> None:
    temporary.write_bytes(b"half")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_when_the_block_fails(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        fail_after(write_half, atomic_path(tmp_path / "new/deeper/a.bin"), error())
    assert names_in(tmp_path) == []


def test_a_failure_leaves_the_old_file_and_folders_others_filled(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"old")
    with pytest.raises(ValueError, match="stop"):
        fail_after(write_half, atomic_path(tmp_path / "a.bin", force=True), ValueError("stop"))
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    theirs = tmp_path / "new/theirs"
    with pytest.raises(ValueError, match="stop"):
        fail_after(lambda _: theirs.touch(), atomic_path(tmp_path / "new/a.bin"), ValueError("stop"))
    assert names_in(tmp_path / "new") == ["theirs"]


@pytest.mark.parametrize("make", [atomic_path, atomic_folder])
def test_what_exists_is_replaced_only_by_force(tmp_path: Path, make: Callable[..., object]) -> None:
    (tmp_path / "x").mkdir() if make is atomic_folder else (tmp_path / "x").touch()
    with pytest.raises(ConfigError, match="already exists") as caught, make(tmp_path / "x"):  # type: ignore[attr-defined]
        pass
    assert "--force" in str(caught.value.hint)
    with make(tmp_path / "x", force=True):  # type: ignore[attr-defined]
        pass
    assert names_in(tmp_path) == ["x"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/old").touch()
    with pytest.raises(ConfigError, match="holds no mark"), atomic_folder(tmp_path / "x", force=True):
        pass
    (tmp_path / "x/mark").touch()
    with atomic_folder(tmp_path / "x", force=True) as temporary:
        (temporary / "mark").touch()
    assert names_in(tmp_path / "x") == ["mark"]
    with pytest.raises(KeyboardInterrupt):
        fail_after(
            lambda temporary: (temporary / "half").touch(),
            atomic_folder(tmp_path / "x", force=True),
            KeyboardInterrupt(),
        )
    assert names_in(tmp_path) == ["x"]
    assert names_in(tmp_path / "x") == ["mark"]


def test_an_input_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    (tmp_path / "link").symlink_to("x")
    with pytest.raises(ConfigError, match="is an input of this command"):
        files.refuse_existing(tmp_path / "link", force=True, inputs=[tmp_path / "none", tmp_path / "x"])
    files.refuse_existing(tmp_path / "x", force=True, inputs=[tmp_path])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_the_environments_problem(tmp_path: Path, number: int) -> None:
    with pytest.raises(EnvironmentProblem, match=r"can't write .*a\.bin") as caught, atomic_path(tmp_path / "a.bin"):
        raise OSError(number, os.strerror(number))
    assert "free some space" in str(caught.value.hint)
    assert names_in(tmp_path) == []


def test_a_read_only_place_is_the_environments_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(target: Path, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(target.with_name(".a.tmp-1.bin")))

    monkeypatch.setattr(files, "make_temporary", refuse)
    with pytest.raises(EnvironmentProblem, match="can't write"), atomic_path(tmp_path / "a.bin"):
        pass


def test_a_file_where_a_folder_is_needed_is_the_environments_problem(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with pytest.raises(EnvironmentProblem, match="can't write"), atomic_path(tmp_path / "plain/a.bin"):
        pass


def test_an_unreadable_input_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), atomic_path(tmp_path / "a.bin"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "input.pt"))


def test_a_folder_and_a_file_do_not_replace_each_other(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a folder"), atomic_path(tmp_path / "folder", force=True):
        pass
    with pytest.raises(ConfigError, match="is a file"), atomic_folder(tmp_path / "file", force=True):
        pass


def test_text_is_written_as_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", "größe")
    assert (tmp_path / "a.json").read_bytes() == "größe".encode()


@pytest.mark.parametrize("make", [atomic_path, atomic_folder])
def test_a_name_that_is_too_long_is_the_environments_problem(
    make: Callable[..., AbstractContextManager[Path]], tmp_path: Path
) -> None:
    with pytest.raises(EnvironmentProblem, match="name too long"), make(tmp_path / ("x" * 300)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_the_disk_cannot_hold_is_refused_with_both_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2_500_000))
    require_space(tmp_path / "not/there/yet", 2_500_000, "latents")
    with pytest.raises(EnvironmentProblem, match=f"12 images take about 3.1 GB, {tmp_path} has 2.5 MB free") as caught:
        require_space(tmp_path / "not/there/yet", 3_100_000_000, "12 images")
    assert "--output" in (caught.value.hint or "")


def test_a_folders_hash_is_that_of_its_files_in_name_order(tmp_path: Path) -> None:
    (tmp_path / "x" / "b").mkdir(parents=True)
    (tmp_path / "x" / "b" / "c").write_bytes(b"2")
    (tmp_path / "x" / "a").write_bytes(b"1")
    assert file_sha256(tmp_path / "x") == hashlib.sha256(b"12").hexdigest()
    assert file_sha256(tmp_path / "x" / "a") == hashlib.sha256(b"1").hexdigest()


def test_pipes_devices_and_sockets_are_no_inputs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for name, kind in (("pipe", "a pipe"), ("link", "a pipe"), ("socket", "a socket"), ("/dev/zero", "a device")):
            with pytest.raises(DataError, match=kind):
                require_regular(tmp_path / name)
    with pytest.raises(CheckpointError):
        require_regular(tmp_path / "pipe", CheckpointError)
    for path in (tmp_path, tmp_path / "file", tmp_path / "missing", tmp_path / ("x" * 300), Path("a\0b")):
        require_regular(path)


def test_a_full_disk_behind_an_error_without_a_number_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write() -> None:
        with atomic_path(tmp_path / "a.bin"):
            raise OSError("8192 requested and 0 written")

    with pytest.raises(OSError, match="requested"):
        write()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
    with pytest.raises(EnvironmentProblem, match="No space left"):
        write()


def test_errors_of_the_safetensors_library_are_those_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="No space left"), atomic_path(tmp_path / "a.bin"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(SafetensorError), atomic_path(tmp_path / "a.bin"):
        raise SafetensorError("Error while deserializing header")


def test_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
