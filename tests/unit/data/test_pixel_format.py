"""A folder's images tell the channels and the side of a model of pixels."""

import numpy as np
import pytest
from PIL import Image

from medcli.data.pixel_format import NUM_READ, PixelFormat, pixel_format


def save(file, size, mode):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*size, 3), np.uint8)).convert(mode).save(file)


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (((8, 8), "L"), PixelFormat(True, 8)),
        (((8, 8), "RGB"), PixelFormat(False, 8)),
        (((6, 8), "L"), PixelFormat(True, None)),
        (((6, 6), "L"), PixelFormat(True, None)),
    ],
)
def test_channels_and_side_are_those_all_images_share(tmp_path, second, expected):
    save(tmp_path / "a/0.png", (8, 8), "L")
    save(tmp_path / "b/0.png", *second)
    assert pixel_format(tmp_path) == expected


def test_images_beside_a_file_of_labels_are_looked_at(tmp_path):
    save(tmp_path / "0.png", (4, 4), "L")
    (tmp_path / "labels.json").write_text("{}")
    assert pixel_format(tmp_path / "labels.json") == PixelFormat(True, 4)


def test_only_the_first_are_read_and_a_folder_without_images_has_no_format(tmp_path):
    assert pixel_format(tmp_path) is None
    for number in range(NUM_READ):
        save(tmp_path / f"a/{number:02}.png", (4, 4), "L")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/0.png").write_bytes(b"damaged, and never opened")
    assert pixel_format(tmp_path) == PixelFormat(True, 4)
