from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcli.data import image_folder
from medcli.data.image_files import read_header
from medcli.data.image_folder import MAX_SURVEYED, survey
from medcli.data.images import open_images
from medcli.errors import DataError

SIZE = (4, 3)


def files_of(folder: Path, num: int, size: tuple[int, int] = SIZE) -> list[Path]:
    """Return files that are links to one image."""
    Image.new("RGB", size).save(folder / "one.png")
    files = [folder / f"{number:05d}.png" for number in range(num)]
    for file in files:
        os.link(folder / "one.png", file)
    return files


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    found: list[Path] = []

    def counted(file: Path) -> object:
        found.append(file)
        return read_header(file)

    monkeypatch.setattr(image_folder, "read_header", counted)
    return found


def test_of_a_large_folder_of_one_size_a_sample_is_opened(tmp_path: Path, opened: list[Path]) -> None:
    files = files_of(tmp_path, 4 * MAX_SURVEYED)
    sizes, remarks = survey(tmp_path, files)
    assert sorted(opened) == files[::4]
    assert (list(sizes), remarks) == ([3 * 4 * 3] * len(files), [])


def test_all_are_opened_where_the_sample_has_several_sizes(tmp_path: Path, opened: list[Path]) -> None:
    files = files_of(tmp_path, 2 * MAX_SURVEYED)
    for place, size in ((2, (5, 5)), (3, (6, 6))):
        files[place].unlink()
        Image.new("L", size).save(files[place])
    sizes, remarks = survey(tmp_path, files)
    assert len(opened) == 3 * MAX_SURVEYED
    assert list(sizes)[:5] == [36, 36, 75, 108, 36]
    assert remarks == [f"{tmp_path}: images are converted to RGB: 2 stored as L of 512"]


def test_a_remark_of_a_sample_says_so(tmp_path: Path) -> None:
    files = files_of(tmp_path, MAX_SURVEYED + 1)
    files[0].unlink()
    Image.new("L", SIZE).save(files[0])
    assert survey(tmp_path, files)[1] == [f"{tmp_path}: images are converted to RGB: 1 stored as L of 256 checked"]


def test_what_the_sample_did_not_show_is_refused_when_it_is_read(tmp_path: Path) -> None:
    files = files_of(tmp_path, 2 * MAX_SURVEYED)
    (tmp_path / "one.png").unlink()
    content = bytearray(files[1].read_bytes())
    files[1].unlink()
    files[1].write_bytes(sixteen_bits(bytes(content)))
    source = open_images(tmp_path)
    with pytest.raises(DataError, match=r"00001.png is stored as 16-bit RGB, expected 8 bits per channel"):
        list(source.read([range(64)]))


def sixteen_bits(png: bytes) -> bytes:
    """Set the depth in a PNG's header, and its checksum."""
    import zlib

    header = png[12:24] + bytes([16]) + png[25:29]
    return png[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png[33:]


def test_an_identity_is_of_names_and_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / name / "0.png")
        os.link(tmp_path / name / "0.png", tmp_path / name / "1.png")
    first, second = (open_images(tmp_path / name) for name in ("a", "b"))
    whole = first.identity(range(2))
    assert whole is not None
    assert whole == open_images(tmp_path / "a").identity(range(2))
    assert len({whole, first.identity(range(1)), first.identity(range(1, 2)), second.identity(range(2))}) == 4
    (tmp_path / "a" / "1.png").unlink()
    with pytest.raises(DataError, match="no such file"):
        first.identity(range(2))


def test_names_that_are_no_utf_8_identify_images_too(tmp_path: Path) -> None:
    Image.new("RGB", SIZE).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/\xff.png")
    assert open_images(tmp_path).identity(range(1))
