"""Image sets for scoring, the training crop, and rounding to 8 bits."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from medcli.data.image_archive import chosen_places, open_archive
from medcli.data.image_files import content_remarks, find_images, unreadable
from medcli.data.image_folder import open_folder
from medcli.data.image_source import ImageSource
from medcli.errors import DataError
from medcli.runtime.files import require_regular
from medcli.runtime.json_records import InvalidJson, read_json

MANIFEST = "manifest.json"
"""File in a sample folder that describes its run."""
NUMBERED = re.compile(r"\d+\.png")
"""File names of samples in a sample folder; other pictures, such as `grid.png`, are no samples."""


def open_images(path: Path, num_images: int | None = None, seed: int | None = None) -> ImageSource:
    """Open an image set, recognised by its content, with all checks that need no decoding.

    Args:
        path: A folder of images (sub-folders included), a sample folder (its numbered images only), or an `.npz`.
        num_images: Number to read; None: all.
        seed: Draw them at random by this seed; None: spread them evenly, in index order.

    Raises:
        DataError: If there are no usable images.
        EnvironmentProblem: If a file can't be read.
    """
    if path.is_dir():
        return _open_folder(path, num_images, seed)
    return open_archive(path, num_images, seed)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a sample folder; None if it has none.

    Raises:
        DataError: If the manifest is not valid.
        EnvironmentProblem: If it can't be read.
    """
    path, hint = folder / MANIFEST, "run the medcli sample command again"
    require_regular(path)
    try:
        manifest = read_json(path, allow_nan=True)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as err:
        raise unreadable(path, err) from err
    except InvalidJson as err:
        raise DataError(f"{path} can't be read: {err}", hint=hint) from err
    if not isinstance(manifest, dict):
        raise DataError(f"{path} does not hold a JSON object", hint=hint)
    if type(manifest.get("num_images", 0)) is not int or manifest.get("num_images", 0) < 0:
        raise DataError(f"{path}: num_images is not a count", hint=hint)
    return manifest


def center_crop(image: Image.Image, side: int) -> npt.NDArray[np.uint8]:
    """Crop the training square from an image as DiT and SiT do (reference-facts 3.4).

    Halve by box averaging while the short side is at least twice the target, resize it to the target bicubically, then
    cut the middle.

    Args:
        image: Any Pillow image that converts to RGB.
        side: Side of the square, in pixels.

    Returns:
        (side, side, 3) uint8.
    """
    image = image if image.mode == "RGB" else image.convert("RGB")  # which copies an RGB image, too
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)))


def to_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """Convert pixels in [-1, 1] to 0..255 as the samplers of DiT and SiT do: clamp(127.5 x + 128), then truncate.

    Any shape and float type; arithmetic is float32. Values outside the range are clamped.
    """
    return (127.5 * pixels.float() + 128).clamp(0, 255).to(torch.uint8)


def _open_folder(folder: Path, num_images: int | None, seed: int | None) -> ImageSource:
    manifest = read_manifest(folder)
    remarks: list[str] = []
    limit = None
    if manifest is None:
        content = find_images(folder)
        found = [folder / name for name in content.names]
        remarks += content_remarks(folder, [content])
    else:
        try:
            found = [folder / name for name in os.listdir(folder) if NUMBERED.fullmatch(name)]
        except OSError as err:
            raise unreadable(folder, err) from err
        promised = manifest.get("num_images", len(found))
        # A folder that is still being filled must not be scored as the whole set.
        if num_images is None and len(found) < promised:
            raise DataError(
                f"{folder} holds {len(found)} of the {promised} images its manifest names",
                hint=f"finish it with the same medcli sample command, or pass --num-images {len(found)}",
            )
        limit = promised if num_images is None else None
    found = sorted(found, key=lambda file: _numeric_order(file.relative_to(folder)))[:limit]
    files = [found[place] for place in chosen_places(folder, len(found), num_images, seed)]
    return open_folder(folder, files, remarks)


def _numeric_order(path: Path) -> list[tuple[bool, int, str]]:
    """Sort key in which `2.png` comes before `10.png`, whatever the zero padding."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]
