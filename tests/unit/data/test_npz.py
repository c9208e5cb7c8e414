from __future__ import annotations

import io
import os
import random
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medcli.data.image_archive import open_archive
from medcli.data.npz import MAX_ARRAY_BYTES, is_npz, npz_keys, read_array, read_npy
from medcli.errors import DataError, MedcliError

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 5, 4, 3), dtype=np.uint8)
NUM_MUTATIONS = 400


def npy(array: Any) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def archive(path: Path, members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members:
            file.writestr(zipfile.ZipInfo(name), content, compress_type=method)
    return path


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    size = struct.pack("<H" if version[0] == 1 else "<I", len(text))
    return b"\x93NUMPY" + version + size + text.encode()


def test_arrays_of_any_kind_and_order_are_read(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "f": np.asfortranarray(IMAGES),
        "t": np.array("text"),
        "z": np.empty(0),
    }
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    assert npz_keys(tmp_path / "x.npz") == set(arrays)
    for key, array in arrays.items():
        np.testing.assert_array_equal(read_array(tmp_path / "x.npz", key), array)
    np.save(tmp_path / "x.npy", arrays["f"])
    np.testing.assert_array_equal(read_npy(tmp_path / "x.npy"), IMAGES)


def test_archives_are_recognised_by_content(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", IMAGES)
    (tmp_path / "x.npz").rename(tmp_path / "STATS")
    (tmp_path / "text.npz").write_text("text")
    assert is_npz(tmp_path / "STATS")
    assert not any(is_npz(tmp_path / name) for name in ("text.npz", "none.npz", "."))


def test_object_arrays_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", mu=np.array([{"pickled": True}]))
    assert npz_keys(tmp_path / "x.npz") == {"mu"}
    with pytest.raises(DataError, match="pickled objects are never read"):
        read_array(tmp_path / "x.npz", "mu")


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (9000000000000,)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-3, -100)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (301,)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1.5, 200)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (True,)}",
        "{'descr': '<V0', 'fortran_order': False, 'shape': (300,)}",
        "{'descr': [('a', 'u1'), ('a', 'u1')], 'fortran_order': False, 'shape': (150,)}",
        "{'descr': 'no', 'fortran_order': False, 'shape': (300,)}",
        "{'descr': None, 'fortran_order': 3, 'shape': 300}",
        "((((((" * 3000,
        "[" * 200 + "]" * 200,
        "",
    ],
)
def test_headers_that_are_wrong_are_refused(tmp_path: Path, text: str) -> None:
    path = archive(tmp_path / "x.npz", [("arr_0.npy", header(text) + bytes(300))])
    for read in (lambda: read_array(path, "arr_0"), lambda: open_archive(path)):
        with pytest.raises(DataError):
            read()


def test_bombs_are_refused_before_they_are_read(tmp_path: Path) -> None:
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({MAX_ARRAY_BYTES + 1},)}}"
    large = archive(tmp_path / "x.npz", [("mu.npy", header(text) + bytes(MAX_ARRAY_BYTES + 1))], zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match="more than"):
        read_array(large, "mu")
    deep = header("", b"\x02\x00")[:8] + struct.pack("<I", 2**31) + bytes(2**20)
    with pytest.raises(DataError, match="not a whole"):
        read_array(archive(tmp_path / "y.npz", [("mu.npy", deep)]), "mu")


def test_encrypted_repeated_and_missing_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", IMAGES)
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[6] |= 1
    content[content.find(b"PK\1\2") + 8] |= 1
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match="is encrypted"):
        open_archive(tmp_path / "x.npz")
    with pytest.warns(UserWarning, match="Duplicate"):
        archive(tmp_path / "y.npz", [("arr_0.npy", npy(IMAGES)), ("arr_0.npy", npy(IMAGES[:1]))])
    with pytest.raises(DataError, match="arr_0 twice"):
        open_archive(tmp_path / "y.npz")
    np.savez(tmp_path / "z.npz", a=IMAGES)
    with pytest.raises(DataError, match="not a whole"):
        read_array(tmp_path / "z.npz", "b")


def test_pipes_devices_and_sockets_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.npz")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.npz")
        for name in ("pipe.npz", "socket.npz", "/dev/zero"):
            for read in (is_npz, npz_keys, open_archive, read_npy):
                with pytest.raises(DataError, match="is a (pipe|socket|device)"):
                    read(Path(name))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_archives_are_refused_or_read(tmp_path: Path, method: int) -> None:
    whole = archive(tmp_path / "x.npz", [("arr_0.npy", npy(IMAGES)), ("mu.npy", npy(np.arange(9.0)))], method)
    content, draw, refused = whole.read_bytes(), random.Random(method), 0
    for number in range(NUM_MUTATIONS // 4):
        path = tmp_path / f"{number}.npz"
        path.write_bytes(mutated(content, draw))
        message = refusal(lambda path=path: read_all(path))  # type: ignore[misc]
        assert message is None or str(path) in message
        refused += message is not None
    assert refused > NUM_MUTATIONS // 8


def test_damaged_arrays_are_refused_or_read(tmp_path: Path) -> None:
    content, draw, refused = npy(np.arange(60.0)), random.Random(0), 0
    for number in range(NUM_MUTATIONS):
        path = tmp_path / f"{number}.npy"
        path.write_bytes(mutated(content, draw))
        message = refusal(lambda path=path: read_npy(path))  # type: ignore[misc]
        assert message is None or str(path) in message
        refused += message is not None
    assert refused > NUM_MUTATIONS // 10


def read_all(path: Path) -> None:
    npz_keys(path)
    read_array(path, "mu")
    archive = open_archive(path)
    for _ in archive.read(range(place, place + 1) for place in range(archive.num_images)):
        pass


def refusal(read: Callable[[], object]) -> str | None:
    """Message of the error that the user sees; None if the file was read."""
    try:
        read()
    except MedcliError as err:
        return err.message
    return None


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Change a few bytes, cut the end, or repeat, remove or move a part."""
    changed = bytearray(content)
    kind = draw.randrange(5)
    place, size = draw.randrange(len(changed)), draw.randrange(1, 40)
    if kind == 0:
        del changed[place:]
    elif kind == 1:
        del changed[place : place + size]
    elif kind == 2:
        changed[place:place] = changed[place : place + size]
    for _ in range(draw.randrange(1, 8)):
        if changed:
            changed[draw.randrange(len(changed))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
    return bytes(changed)
