"""Channels and side of a folder's images, found from the headers of a few of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from medcli.data.image_files import SUFFIXES, read_header

NUM_READ = 16
"""Number of images checked."""
GREY_MODES = frozenset({"1", "L", "LA"})
"""Pillow modes of images without colour."""


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """Format that a folder's images share."""

    is_grey: bool
    """True if none of them is stored in colour."""
    side_px: int | None
    """Their side, if all are square and of one size."""


def pixel_format(path: Path) -> PixelFormat | None:
    """Look at the first images of a folder, or beside a file of labels; None if there are none.

    Raises:
        DataError: If one of them is damaged.
    """
    headers = [read_header(file) for file in islice(_images(path if path.is_dir() else path.parent), NUM_READ)]
    if not headers:
        return None
    sizes = {(header.width, header.height) for header in headers}
    width, height = min(sizes)
    return PixelFormat(
        is_grey=all(header.mode in GREY_MODES for header in headers),
        side_px=width if len(sizes) == 1 and width == height else None,
    )


def _images(root: Path) -> Iterator[Path]:
    """Image files under a folder, in sorted order, found on demand."""
    for folder, folders, files in os.walk(root, followlinks=True):
        folders.sort()
        for name in sorted(files):
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield Path(folder) / name
