"""Picture files of a sample folder: images, the grid, the archive."""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from medcli.data.image_files import read_image
from medcli.errors import DataError
from medcli.runtime.many_files import put_bytes

# Dimension key: N images, Y X height and width.

CELL_PX = 64
"""Small images are enlarged by a whole factor to about this side in the grid, so that a person can read them."""
GRID_PX = 2048
"""The grid's side is about this at most; it shows the first images that fit."""
GAP_PX = 2
TITLE_PX = 14
"""Height of the row of class names."""
MAX_GRID_IMAGES = 100
WHITE = 255
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_SIDES = slice(16, 24)
"""Bytes of width and height."""
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


def write_png(path: Path, pixels_YXC: npt.NDArray[np.uint8]) -> None:
    """Write an image atomically, replacing an older one; the disk has it before it gets its name."""
    content = io.BytesIO()
    Image.fromarray(pixels_YXC).save(content, format="PNG")
    put_bytes(path, content.getbuffer())


def is_whole_png(path: str | os.PathLike[str], side_px: int | None = None) -> bool:
    """Return True if a file starts and ends as a PNG does: one that was cut, or is empty, does not.

    Args:
        path: The file.
        side_px: Side it must have; None: any.
    """
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb", buffering=0) as file:
            start = file.read(PNG_SIDES.stop)
            file.seek(-len(PNG_END), os.SEEK_END)
            is_whole = start.startswith(PNG_START) and file.read() == PNG_END
    except OSError:
        return False
    return is_whole and (side_px is None or start[PNG_SIDES] == struct.pack(">II", side_px, side_px))


def read_png(path: Path, side_px: int | None = None) -> npt.NDArray[np.uint8]:
    """Read an image as (Y, X, 3) uint8, of one side if that is given.

    Raises:
        DataError: If it is damaged or of another size.
    """
    pixels_YXC, _ = read_image(path)
    if side_px is not None and pixels_YXC.shape != (side_px, side_px, 3):
        raise DataError(f"{path} is not {side_px} x {side_px} px", hint="remove it and run medcli sample again")
    return pixels_YXC


def grid_columns(num_images: int, num_classes: int) -> int:
    """Return the columns of a grid: one a class for 4 to 16 classes, else a square."""
    if 4 <= num_classes <= 16 and num_images >= num_classes:
        return num_classes
    return max(1, int(np.ceil(np.sqrt(num_images))))


def grid_capacity(side_px: int) -> int:
    """Return the most images a grid shows."""
    scale = max(1, CELL_PX // side_px)
    return min(MAX_GRID_IMAGES, max(1, GRID_PX // (scale * side_px)) ** 2)


def grid_of(images: Sequence[npt.NDArray[np.uint8]], columns: int, names: Sequence[str] = ()) -> npt.NDArray[np.uint8]:
    """Lay images out row by row on white, small ones enlarged smoothly: 8 pixels in blocks are hard to read as a digit.

    Args:
        images: (Y, X, 3) uint8, all of one size, at least one.
        columns: Images in a row.
        names: Text above each column, cut to its width; empty texts: none.
    """
    side = images[0].shape[0]
    scale, rows = max(1, CELL_PX // side), -(-len(images) // columns)
    cell = scale * side
    step = cell + GAP_PX
    grid = np.full((rows * step - GAP_PX, columns * step - GAP_PX, 3), WHITE, dtype=np.uint8)
    for place, image in enumerate(images):
        top, left = place // columns * step, place % columns * step
        grid[top : top + cell, left : left + cell] = Image.fromarray(image).resize(
            (cell, cell), Image.Resampling.BICUBIC
        )
    return np.concatenate([_title_row(names, step, grid.shape[1]), grid]) if any(names) else grid


def _title_row(names: Sequence[str], step: int, width: int) -> npt.NDArray[np.uint8]:
    """Draw a row of texts at distances of `step` pixels, (Y, width, 3) uint8."""
    font = ImageFont.load_default()
    row = Image.new("RGB", (width, TITLE_PX), (WHITE,) * 3)
    draw = ImageDraw.Draw(row)
    for place, name in enumerate(names):
        shown = name.split(",")[0].encode("latin-1", "replace").decode("latin-1")  # the letters that the font has
        while shown and font.getlength(shown) > step - GAP_PX:
            shown = shown[:-1]
        draw.text((place * step, 0), shown, fill=(0, 0, 0), font=font)
    return np.asarray(row, dtype=np.uint8)


def is_whole_npz(path: Path, num_files: int, side_px: int) -> bool:
    """Return True if a file is an archive as `ArchiveSlots` makes it, of this size; its pixels are not read."""
    if not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as member:
            np.lib.format.read_magic(member)
            shape, _, dtype = np.lib.format.read_array_header_1_0(member)
            size = archive.getinfo("arr_0.npy").file_size - member.tell()
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return False
    return shape == (num_files, side_px, side_px, 3) and dtype == np.uint8 and size == math.prod(shape)
