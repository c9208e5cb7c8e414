from __future__ import annotations

import errno
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medcli.engine import archive_slots
from medcli.engine.archive_slots import ArchiveSlots, _directory, _entry, _head, is_slots, remove_slots
from medcli.engine.pictures import is_whole_npz
from medcli.errors import ConfigError, DataError, EnvironmentProblem

NUM, SIDE = 7, 6
PIXELS = np.random.default_rng(0).integers(0, 256, (NUM, SIDE, SIDE, 3), dtype=np.uint8)


def no_picture(index: int) -> np.ndarray:
    raise AssertionError(f"picture {index} was read")


def finished(folder: Path, put: Callable[[ArchiveSlots], None], read: Callable[[int], np.ndarray]) -> bytes:
    slots = ArchiveSlots(folder, NUM, SIDE)
    put(slots)
    slots.close()
    ArchiveSlots(folder, NUM, SIDE).finish(folder / "samples.npz", range(NUM), read)
    assert os.listdir(folder) == ["samples.npz"]
    assert is_whole_npz(folder / "samples.npz", NUM, SIDE)
    return (folder / "samples.npz").read_bytes()


def test_several_writers_make_the_archive_one_makes_without_reading_a_picture(tmp_path: Path) -> None:
    def by_two(slots: ArchiveSlots) -> None:
        other = ArchiveSlots(tmp_path, NUM, SIDE)  # as another process has it
        for index in (5, 0, 3, 1, 6, 2, 4):
            (slots if index % 2 else other).put(index, PIXELS[index])
        other.close()

    content = finished(tmp_path, by_two, no_picture)
    with zipfile.ZipFile(tmp_path / "samples.npz") as archive:
        assert archive.testzip() is None
    with np.load(tmp_path / "samples.npz") as archive:
        assert archive.files == ["arr_0"]
        assert np.array_equal(archive["arr_0"], PIXELS)
    (tmp_path / "samples.npz").unlink()
    assert finished(tmp_path, lambda _slots: None, lambda index: PIXELS[index]) == content


def test_the_archive_is_that_of_the_zip_library(tmp_path: Path) -> None:
    content = finished(tmp_path, lambda _slots: None, lambda index: PIXELS[index])
    with zipfile.ZipFile(tmp_path / "z.npz", "w", zipfile.ZIP_STORED) as archive:
        entry = zipfile.ZipInfo("arr_0.npy", date_time=archive_slots.FIXED_DATE)
        with archive.open(entry, "w", force_zip64=True) as member:
            member.write(_head(NUM, SIDE) + PIXELS.tobytes())
    assert (tmp_path / "z.npz").read_bytes() == content


@pytest.mark.parametrize("kind", ["part", "crc"])
def test_places_that_lack_their_pixels_are_filled_from_the_pictures(tmp_path: Path, kind: str) -> None:
    def damaged(slots: ArchiveSlots) -> None:
        for index in range(NUM - 1):  # the last was never written
            slots.put(index, PIXELS[index])
        path = tmp_path / f".samples-{NUM}.{kind}"
        content = bytearray(path.read_bytes())
        place = {"part": len(content) - int(4.5 * SIDE * SIDE * 3), "crc": 10}[kind]  # of image 2
        content[place] ^= 1
        path.write_bytes(content)

    read: list[int] = []

    def picture(index: int) -> np.ndarray:
        read.append(index)
        return PIXELS[index]

    finished(tmp_path, damaged, picture)
    assert sorted(read) == [2, NUM - 1]
    with np.load(tmp_path / "samples.npz") as archive:
        assert np.array_equal(archive["arr_0"], PIXELS)


def test_an_image_made_again_replaces_its_pixels(tmp_path: Path) -> None:
    def twice(slots: ArchiveSlots) -> None:
        for index in range(NUM):
            slots.put(index, PIXELS[0])
        for index in range(NUM):
            slots.put(index, PIXELS[index])

    finished(tmp_path, twice, no_picture)
    with np.load(tmp_path / "samples.npz") as archive:
        assert np.array_equal(archive["arr_0"], PIXELS)


def test_images_under_other_numbers_are_read_from_their_pictures(tmp_path: Path) -> None:
    slots = ArchiveSlots(tmp_path, 3, SIDE)
    for index in range(3):
        slots.put(index, PIXELS[index])
    slots.put(5, PIXELS[5])  # beyond the archive
    slots.finish(tmp_path / "samples.npz", [0, 4, 5], lambda index: PIXELS[index])
    with np.load(tmp_path / "samples.npz") as archive:
        assert np.array_equal(archive["arr_0"], PIXELS[[0, 4, 5]])


def test_a_damaged_picture_and_a_full_disk_leave_the_older_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "samples.npz").write_bytes(b"old")

    def damaged(index: int) -> np.ndarray:
        raise DataError(f"picture {index} is damaged")

    with pytest.raises(DataError, match="is damaged"):
        ArchiveSlots(tmp_path, NUM, SIDE).finish(tmp_path / "samples.npz", range(NUM), damaged)

    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(archive_slots, "write_at", full)
    with pytest.raises(EnvironmentProblem, match="No space left"):
        ArchiveSlots(tmp_path, NUM, SIDE).put(0, PIXELS[0])
    assert (tmp_path / "samples.npz").read_bytes() == b"old"


def test_an_archive_above_four_gigabytes_is_opened(tmp_path: Path) -> None:
    side, num = 256, 30_000
    head = _head(num, side)
    entry = _entry(head, num * side * side * 3, 0)
    local = entry.FileHeader(zip64=True) + head
    end = len(local) + num * side * side * 3
    assert end > 1 << 32
    with (tmp_path / "large.npz").open("wb") as file:
        file.write(local)
        file.truncate(end)  # a hole
        file.seek(end)
        file.write(_directory(entry, end))
    assert is_whole_npz(tmp_path / "large.npz", num, side)


def test_only_unfinished_archives_are_removed(tmp_path: Path) -> None:
    names = [".samples-5.part", ".samples-5.crc", ".samples-x.part", ".samples-5.npz", "samples.npz", ".samples-5.crc2"]
    for name in names:
        (tmp_path / name).touch()
    assert [is_slots(name) for name in names] == [True, True, False, False, False, False]
    remove_slots(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(names[2:])


def test_a_link_in_the_place_of_the_unfinished_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / f".samples-{NUM}.part").symlink_to(tmp_path / "mine")
    with pytest.raises(ConfigError, match="in the way of an unfinished archive"):
        ArchiveSlots(tmp_path, NUM, SIDE).put(0, PIXELS[0])
    assert (tmp_path / "mine").read_bytes() == b"mine"
