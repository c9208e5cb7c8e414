from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from medcli.data.image_folder import ImageFolder
from medcli.data.image_source import ImageSource
from medcli.data.images import center_crop, open_images, read_manifest, to_uint8
from medcli.errors import DataError


def save(path: Path, level: int, size: tuple[int, int] = (4, 4), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, level).convert(mode).save(path)


def images_of(source: ImageSource, size: int = 3) -> list[torch.Tensor]:
    """Read all images, a few at a time."""
    ranges = (range(start, min(start + size, source.num_images)) for start in range(0, source.num_images, size))
    return [image for images in source.read(ranges) for image in images]


def levels(path: Path) -> list[int]:
    return [int(image[0, 0, 0]) for image in images_of(open_images(path))]


@pytest.mark.parametrize("pattern", ["{}.png", "{:06d}.png", "image-{}.png", "part{}/a.png"])
def test_files_are_read_in_numeric_order(tmp_path: Path, pattern: str) -> None:
    for number in (10, 2, 0, 9, 100):
        save(tmp_path / pattern.format(number), number)
    assert levels(tmp_path) == [0, 2, 9, 10, 100]


def test_images_are_rgb_bytes_of_their_own_sizes(tmp_path: Path) -> None:
    for number, size in enumerate([(4, 4), (4, 4), (6, 5), (4, 4)]):
        save(tmp_path / f"{number}.png", number, size)
    source = open_images(tmp_path)
    images = images_of(source)
    assert [tuple(image.shape) for image in images] == [(4, 4, 3), (4, 4, 3), (5, 6, 3), (4, 4, 3)]
    assert all(image.dtype == torch.uint8 for image in images)
    assert source.num_images == 4


def test_jpeg_and_webp_are_images_and_other_files_are_not(tmp_path: Path) -> None:
    for suffix in ("png", "jpg", "JPEG", "webp"):
        save(tmp_path / f"a.{suffix}", 7)
    (tmp_path / "notes.txt").write_text("not an image")
    assert open_images(tmp_path).num_images == 4


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_part_of_an_archive_is_read_without_the_images_between(tmp_path: Path, order: Literal["C", "F"]) -> None:
    images = np.zeros((1000, 64, 64, 3), np.uint8)
    images[:] = (np.arange(1000) % 251)[:, None, None, None]
    np.savez(tmp_path / "a.npz", np.asarray(images, order=order))
    source = open_images(tmp_path / "a.npz", 10)
    assert list(source.places) == list(range(0, 1000, 100))
    tracemalloc.start()
    found = images_of(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [int(image[0, 0, 0]) for image in found] == [place % 251 for place in source.places]
    assert order == "F" or peak < images.nbytes / 4


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_other_modes_are_converted_to_rgb_and_said_once(tmp_path: Path, mode: str) -> None:
    for number in range(3):
        save(tmp_path / f"{number}.png", 50, mode=mode)
    source = open_images(tmp_path)
    assert [image.shape[-1] for image in images_of(source)] == [3, 3, 3]
    assert levels(tmp_path) == [50, 50, 50]
    assert len(source.remarks) == 1
    assert mode in source.remarks[0]


def test_sixteen_bit_images_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16)).save(tmp_path / "0.png")
    with pytest.raises(DataError, match="expected 8 bits"):
        images_of(open_images(tmp_path))


@pytest.mark.parametrize(("content", "what"), [(b"", "is empty"), (b"<html>", "is not an image")])
def test_a_file_that_is_no_image_is_found_before_anything_runs(tmp_path: Path, content: bytes, what: str) -> None:
    save(tmp_path / "0.png", 0)
    (tmp_path / "1.png").write_bytes(content)
    with pytest.raises(DataError, match=f"1.png {what}"):
        open_images(tmp_path)


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "0.png")
    content = (tmp_path / "0.png").read_bytes()
    (tmp_path / "0.png").write_bytes(content[:-900])
    with pytest.raises(DataError, match="0.png is not a whole image"):
        images_of(open_images(tmp_path))


def test_an_empty_folder_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images"):
        open_images(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        open_images(tmp_path / "none")


def test_the_first_images_are_taken_in_order(tmp_path: Path) -> None:
    for number in range(12):
        save(tmp_path / f"{number}.png", number)
    source = open_images(tmp_path, 11)
    assert isinstance(source, ImageFolder)
    assert [file.stem for file in source.files] == [str(number) for number in range(11)]
    with pytest.raises(DataError, match="holds 12 images, 13 were asked for"):
        open_images(tmp_path, 13)


def sample_folder(path: Path, num_found: int, num_promised: int) -> Path:
    for number in range(num_found):
        save(path / f"{number:06d}.png", number)
    save(path / "grid.png", 255)
    (path / "manifest.json").write_text(json.dumps({"num_images": num_promised, "reference": "digits"}))
    return path


def test_of_a_sample_folder_only_the_numbered_images_are_read(tmp_path: Path) -> None:
    assert levels(sample_folder(tmp_path, 3, 3)) == [0, 1, 2]


def test_images_beyond_the_manifest_count_are_left_out(tmp_path: Path) -> None:
    assert levels(sample_folder(tmp_path, 4, 3)) == [0, 1, 2]


def test_an_unfinished_sample_folder_is_refused_unless_a_number_is_given(tmp_path: Path) -> None:
    sample_folder(tmp_path, 3, 5)
    with pytest.raises(DataError, match="holds 3 of the 5 images"):
        open_images(tmp_path)
    assert open_images(tmp_path, 2).num_images == 2


def test_a_folder_without_a_manifest_has_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match="manifest.json"):
        read_manifest(tmp_path)


def test_center_crop_takes_the_middle_of_the_longer_side() -> None:
    wide = np.zeros((8, 24, 3), dtype=np.uint8)
    wide[:, 8:16] = 200
    assert (center_crop(Image.fromarray(wide), 8) == 200).all()


def test_center_crop_leaves_the_odd_row_or_column_at_the_end() -> None:
    tall = np.zeros((11, 8, 3), np.uint8)
    tall[:, :, 0] = np.arange(11)[:, None]
    assert center_crop(Image.fromarray(tall), 8)[:, 0, 0].tolist() == list(range(1, 9))
    wide = np.zeros((8, 11, 3), np.uint8)
    wide[:, :, 0] = np.arange(11)
    assert center_crop(Image.fromarray(wide), 8)[0, :, 0].tolist() == list(range(1, 9))


def test_center_crop_halves_large_images_by_averaging() -> None:
    checks = np.indices((16, 16)).sum(axis=0) % 2 * 200
    image = Image.fromarray(checks.astype(np.uint8)).convert("RGB")
    assert (center_crop(image, 8) == 100).all()


def test_pixels_are_truncated_not_rounded() -> None:
    assert to_uint8(torch.tensor([-1.0, 0.0, 0.0039, 1.0, 3.0])).tolist() == [0, 128, 128, 255, 255]
