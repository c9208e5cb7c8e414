from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medcli.data.image_archive import ImageArchive, open_archive
from medcli.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 5, 4, 3), dtype=np.uint8)


def saved(folder: Path, *arrays: Any, **named: Any) -> Path:
    path = folder / "images.npz"
    np.savez(path, *arrays, **named)
    return path


def read(path: Path, batch_size: int = 3, num_images: int | None = None) -> torch.Tensor:
    return torch.stack([image for images in batches_of(open_archive(path, num_images), batch_size) for image in images])


def batches_of(archive: ImageArchive, size: int) -> list[list[torch.Tensor]]:
    number = archive.num_images
    return list(archive.read(range(start, min(start + size, number)) for start in range(0, number, size)))


def test_images_stream_out_in_order(tmp_path: Path) -> None:
    archive = open_archive(saved(tmp_path, IMAGES))
    batches = batches_of(archive, 3)
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert archive.num_images == 7
    np.testing.assert_array_equal(torch.stack(sum(batches, [])), IMAGES)


def test_compressed_fortran_ordered_and_accompanied_arrays_read_the_same(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "compressed.npz", IMAGES)
    np.savez(tmp_path / "fortran.npz", np.asfortranarray(IMAGES))
    np.savez(tmp_path / "labelled.npz", IMAGES, np.arange(7))
    for name in ("compressed", "fortran", "labelled"):
        np.testing.assert_array_equal(read(tmp_path / f"{name}.npz"), IMAGES)


def test_the_first_images_are_taken(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(saved(tmp_path, IMAGES), num_images=4), IMAGES[[0, 1, 3, 5]])
    with pytest.raises(DataError, match="holds 7 images, 8 were asked for"):
        open_archive(tmp_path / "images.npz", 8)


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (IMAGES.astype(np.float32) / 255, "float32"),
        (IMAGES.astype(np.int64) - 1000, "int64"),
        (IMAGES > 9, "bool"),
        (IMAGES.transpose(0, 3, 1, 2), r"\(7, 3, 5, 4\)"),
        (IMAGES[..., :1], r"\(7, 5, 4, 1\)"),
        (IMAGES[0], r"\(5, 4, 3\)"),
        (np.array([{"pickled": True}]), "object"),
    ],
)
def test_what_is_no_rgb_bytes_is_refused_saying_what_it_is(tmp_path: Path, array: Any, found: str) -> None:
    with pytest.raises(DataError, match=f"arr_0 (is|has) .*{found}") as caught:
        open_archive(saved(tmp_path, array))
    assert "uint8" in f"{caught.value.message} {caught.value.hint}" or found == "object"


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.float32, np.float64, ">i4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_whole_numbers_are_images_with_a_remark(tmp_path: Path, dtype: Any, order: Any) -> None:
    archive = open_archive(saved(tmp_path, np.asarray(IMAGES, dtype=dtype, order=order)))
    np.testing.assert_array_equal(read(tmp_path / "images.npz"), IMAGES)
    np.testing.assert_array_equal(torch.stack(next(archive.read([range(4, 6)]))), IMAGES[4:6])
    assert list(archive.image_bytes) == [IMAGES[0].size] * 7
    assert "converted to uint8" in archive.remarks[0]


@pytest.mark.parametrize("value", [0.5, 256, -1, float("nan"), float("inf")])
def test_a_later_image_of_other_values_is_named(tmp_path: Path, value: float) -> None:
    images = IMAGES.astype(np.float64)
    images[5, 0, 0, 0] = value
    with pytest.raises(DataError, match=r"image 5 of arr_0 has values that are not whole numbers in 0..255"):
        read(saved(tmp_path, images))


@pytest.mark.parametrize(
    ("array", "advice"),
    [
        (IMAGES / 255, "255 \\* x"),
        (IMAGES / 127.5 - 1, "127.5 \\* x"),
        (IMAGES + 0.3, "round the values"),
        (IMAGES * np.float64("nan"), "make the images again"),
        (np.concatenate([IMAGES, IMAGES[..., :1]], 3), r"arr\[..., :3\]"),
        (IMAGES[..., :1], "np.repeat\\(arr, 3, axis=3\\)"),
        (IMAGES[..., 0], r"arr\[..., None\]"),
        (IMAGES[0], r"arr\[None\]"),
        (IMAGES.transpose(0, 3, 1, 2), "transpose"),
        (np.concatenate([IMAGES, IMAGES[..., :1]], 3).transpose(0, 3, 2, 1), r"arr\[:, :3\]"),
    ],
)
def test_the_hint_fits_the_values(tmp_path: Path, array: Any, advice: str) -> None:
    with pytest.raises(DataError) as caught:
        open_archive(saved(tmp_path, array))
    assert re.search(advice, str(caught.value.hint))


def test_the_only_array_of_images_is_taken_under_any_name(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(saved(tmp_path, x=IMAGES, labels=np.arange(7))), IMAGES)
    with pytest.raises(DataError, match="several arrays of images: x, y"):
        open_archive(saved(tmp_path, x=IMAGES, y=IMAGES))


def test_another_key_is_refused_naming_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no arr_0 \(found: labels, mu\)"):
        open_archive(saved(tmp_path, mu=np.zeros(3), labels=np.arange(7)))


def test_no_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images"):
        open_archive(saved(tmp_path, IMAGES[:0]))


@pytest.mark.parametrize("kept", [0, 20, 0.5, 0.95])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: float) -> None:
    path = saved(tmp_path, IMAGES)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept > 1 else kept * len(content))])
    with pytest.raises(DataError, match=r"images.npz is not a whole .npz file"):
        read(path)


def test_damage_inside_is_found_while_reading(tmp_path: Path) -> None:
    path = saved(tmp_path, IMAGES)
    content = bytearray(path.read_bytes())
    place = content.find(IMAGES[4].tobytes())
    content[place] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a whole"):
        read(path)
