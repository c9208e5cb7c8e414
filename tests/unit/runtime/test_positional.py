from __future__ import annotations

import os
from pathlib import Path

import pytest

from medcli.runtime.positional import read_at, write_at


@pytest.mark.parametrize("has_calls", [True, False])
def test_bytes_go_to_their_places_and_come_from_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_calls: bool
) -> None:
    if not has_calls:  # as on Windows
        monkeypatch.delattr(os, "preadv")
        monkeypatch.delattr(os, "pwrite")
    descriptor = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    try:
        write_at(descriptor, b"world", 6)
        write_at(descriptor, b"hello ", 0)
        write_at(descriptor, b"", 100)
        content = bytearray(4)
        assert read_at(descriptor, memoryview(content), 4) == 4
        assert content == b"o wo"
        assert read_at(descriptor, memoryview(content), 9) == 2
        assert (tmp_path / "f").read_bytes() == b"hello world"
    finally:
        os.close(descriptor)


def test_calls_that_write_a_part_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, content, offset: real(file, content[:2], offset))
    descriptor = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    write_at(descriptor, b"0123456", 1)
    os.close(descriptor)
    assert (tmp_path / "f").read_bytes() == b"\0" + b"0123456"
