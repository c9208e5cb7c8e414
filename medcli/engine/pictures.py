"""Picture files of a sample folder: images, the grid, the archive."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from medcli.runtime.files import atomic_path

# Dimension key: N images, Y X height and width.

CELL_PX = 64
"""Small images are enlarged by a whole factor to about this side in the grid, so that a person can read them."""
GRID_PX = 2048
"""The grid's side is about this at most; it shows the first images that fit."""
GAP_PX = 2
MAX_GRID_IMAGES = 100
WHITE = 255
FIXED_DATE = (1980, 1, 1, 0, 0, 0)
"""Time stamp in the archive: equal images make equal files."""


def write_png(path: Path, pixels_YXC: npt.NDArray[np.uint8]) -> None:
    """Write an image atomically, replacing an older one."""
    with atomic_path(path, force=True) as temporary:
        Image.fromarray(pixels_YXC).save(temporary, format="PNG")


def read_png(path: Path) -> npt.NDArray[np.uint8]:
    """Read an image as (Y, X, 3) uint8."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def grid_columns(num_images: int, num_classes: int) -> int:
    """Return the columns of a grid: one a class for 4 to 16 classes, else a square."""
    if 4 <= num_classes <= 16 and num_images >= num_classes:
        return num_classes
    return max(1, int(np.ceil(np.sqrt(num_images))))


def grid_capacity(side_px: int) -> int:
    """Return the most images a grid shows."""
    scale = max(1, CELL_PX // side_px)
    return min(MAX_GRID_IMAGES, max(1, GRID_PX // (scale * side_px)) ** 2)


def grid_of(images: Sequence[npt.NDArray[np.uint8]], columns: int) -> npt.NDArray[np.uint8]:
    """Lay images out row by row on white, small ones enlarged smoothly: 8 pixels in blocks are hard to read as a digit.

    Args:
        images: (Y, X, 3) uint8, all of one size, at least one.
        columns: Images in a row.
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
    return grid


def write_npz(path: Path, files: Iterable[Path], num_files: int, side_px: int) -> None:
    """Gather image files into an archive of one array `arr_0`, (N, Y, X, 3) uint8, a file at a time.

    The layout is that of the ADM suite's sample batches (reference-facts 7).
    """
    with atomic_path(path, force=True) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        entry = zipfile.ZipInfo("arr_0.npy", date_time=FIXED_DATE)
        with archive.open(entry, "w", force_zip64=True) as member:
            shape = (num_files, side_px, side_px, 3)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, header)
            for file in files:
                member.write(read_png(file).tobytes())
