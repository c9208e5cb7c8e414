from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from medcli.data import shard_reader
from medcli.data.shard_reader import Place, ShardReader, state_of
from medcli.errors import DataError

NUM_FILES = 6


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / str(number) for number in range(NUM_FILES)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes(range(number, number + 50)))
    return paths


def reader_of(files: list[Path]) -> ShardReader:
    return ShardReader(files, [state_of(file.stat()) for file in files])


def read(reader: ShardReader, file: int, offset: int, num_bytes: int) -> bytes:
    content = bytearray(num_bytes)
    reader.read(Place(file, offset), memoryview(content))
    return bytes(content)


def test_exactly_the_bytes_of_a_place_are_read(files: list[Path]) -> None:
    reader = reader_of(files)
    assert read(reader, 3, 10, 4) == bytes([13, 14, 15, 16])
    assert read(reader, 0, 45, 5) == bytes(range(45, 50))
    assert read(reader, 0, 50, 0) == b""


def test_a_call_that_returns_fewer_bytes_is_continued(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, buffers, offset: real(file, [buffers[0][:3]], offset))
    assert read(reader_of(files), 1, 2, 20) == bytes(range(3, 23))


def test_bytes_behind_the_end_are_refused(files: list[Path]) -> None:
    with pytest.raises(DataError, match="5 was changed while it was in use"):
        read(reader_of(files), 5, 48, 3)


def test_without_preadv_the_same_bytes_are_read(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "preadv")
    monkeypatch.delattr(os, "posix_fadvise")
    reader = reader_of(files)
    assert [read(reader, number, 7, 2) for number in (2, 2, 0)] == [b"\x09\x0a", b"\x09\x0a", b"\x07\x08"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc on this system")
def test_few_files_stay_open_and_none_outlives_the_reader(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_reader, "FEWEST_OPEN", 2)
    monkeypatch.setattr(shard_reader, "_max_open", lambda: 5)
    before = len(os.listdir("/proc/self/fd"))
    reader = reader_of(files)
    for number in (0, 1, 2, 3, 4, 5, 1, 4):
        assert read(reader, number, 0, 1) == bytes([number])
    assert len(os.listdir("/proc/self/fd")) == before + 2
    del reader
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
