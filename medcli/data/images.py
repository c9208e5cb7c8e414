"""Image sets as the metrics read them, and the two ways pixels are made: the training crop and the 8-bit rounding."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError

from medcli.data.npz import first_images, open_archive
from medcli.errors import DataError, listed
from medcli.runtime.json_records import InvalidJson, read_json
from medcli.runtime.reporting import Reporter

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
MANIFEST = "manifest.json"
"""Beside the images of a sample folder: what made them."""
NUMBERED = re.compile(r"\d+\.png")
"""How a sample folder names its images; its other pictures, such as `grid.png`, are no samples."""
EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
"""Pillow modes that convert to RGB without losing depth."""
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_DEPTH_AT = 24
"""Where a PNG says how many bits a channel has. Pillow opens 16-bit RGB as if it had 8."""
NUM_DECODERS = 8
"""Image files decoded at once; Pillow lets other threads run meanwhile."""


class ImageSource(Protocol):
    """A finite, ordered set of images that can be read again."""

    @property
    def name(self) -> str:
        """What messages and reports call it."""

    @property
    def num_images(self) -> int:
        """How many images there are in all."""

    @property
    def image_bytes(self) -> Sequence[int]:
        """Bytes of each image's pixels, 3 Y X, known before any is read."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a user should know about how the images are read."""

    def batches(self, batch_size: int, reporter: Reporter) -> Iterator[torch.Tensor]:
        """Yield (B, Y, X, 3) uint8 RGB batches, B at most `batch_size`, in index order; passes on the remarks."""

    def read(self, ranges: Iterable[range]) -> Iterator[list[torch.Tensor]]:
        """Yield the images of each range, (Y, X, 3) uint8 RGB.

        Ranges rise and do not overlap. Each is asked for when its images are, so it may be chosen late.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFolder:
    """Image files in numeric order."""

    path: Path
    files: tuple[Path, ...]
    image_bytes: tuple[int, ...]
    """Bytes of each image's pixels, 3 Y X, as its header promises."""
    remarks: tuple[str, ...] = ()
    """What a user should know about how the images are read."""

    @property
    def name(self) -> str:
        """What messages and reports call it."""
        return str(self.path)

    @property
    def num_images(self) -> int:
        """How many images there are."""
        return len(self.files)

    def batches(self, batch_size: int, reporter: Reporter) -> Iterator[torch.Tensor]:
        """Yield batches; a batch ends early where the next image has another size, so sizes may differ.

        Raises:
            DataError: If a file is no image, is damaged, or has more than 8 bits a channel.
        """
        for remark in self.remarks:
            reporter.note(remark)
        ranges = (
            range(start, min(start + batch_size, len(self.files))) for start in range(0, len(self.files), batch_size)
        )
        for images in self.read(ranges):
            for run in equal_sizes(images):
                yield torch.stack(run)

    def read(self, ranges: Iterable[range]) -> Iterator[list[torch.Tensor]]:
        """Yield the images of each range, several files decoded at once.

        Raises:
            DataError: If a file is no image, is damaged, or has more than 8 bits a channel.
        """
        with ThreadPoolExecutor(NUM_DECODERS) as decoders:
            for span in ranges:
                pixels = decoders.map(read_image, self.files[span.start : span.stop])
                yield [torch.from_numpy(pixels_YXC.copy()) for pixels_YXC, _ in pixels]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageArray:
    """Images already in memory."""

    name: str
    """What messages and reports call it."""
    images_NYXC: torch.Tensor
    """(N, Y, X, 3) uint8 RGB."""

    @property
    def num_images(self) -> int:
        """How many images there are."""
        return len(self.images_NYXC)

    @property
    def image_bytes(self) -> Sequence[int]:
        """Bytes of each image's pixels."""
        return [self.images_NYXC[0].numel()] * self.num_images

    @property
    def remarks(self) -> tuple[str, ...]:
        """Nothing: the images are taken as they are."""
        return ()

    def batches(self, batch_size: int, reporter: Reporter) -> Iterator[torch.Tensor]:
        """Yield batches in order, `batch_size` images each but for the last."""
        yield from torch.split(self.images_NYXC, batch_size)

    def read(self, ranges: Iterable[range]) -> Iterator[list[torch.Tensor]]:
        """Yield the images of each range."""
        for span in ranges:
            yield list(self.images_NYXC[span.start : span.stop])


def equal_sizes(images: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Cut a sequence of (Y, X, 3) images where the size changes."""
    run: list[torch.Tensor] = []
    for image_YXC in images:
        if run and run[0].shape != image_YXC.shape:
            yield run
            run = []
        run.append(image_YXC)
    if run:
        yield run


def open_images(path: Path, num_images: int | None = None) -> ImageSource:
    """Find out what an image set is, by its content, and check all that can be checked before anything slow runs.

    Args:
        path: A folder of images (sub-folders included), a sample folder (its numbered images only), or an `.npz`.
        num_images: How many to read, from the first in index order; None reads all.

    Raises:
        DataError: If there are no usable images; the message says what was found.
    """
    if path.is_dir():
        return _open_folder(path, num_images)
    if not path.exists():
        raise DataError(f"no such file or folder: {path}", hint="check the path")
    return open_archive(path, num_images)


def read_image(file: Path) -> tuple[npt.NDArray[np.uint8], str]:
    """Pixels (Y, X, 3) uint8 RGB of an image file, and the Pillow mode it was stored in.

    Raises:
        DataError: If the file is no image, is damaged, or has more than 8 bits a channel.
    """
    try:
        with Image.open(file) as image:
            mode = image.mode
            if mode in EIGHT_BIT_MODES:
                return np.asarray(image.convert("RGB")), mode
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as err:
        raise DataError(f"{file} is not a whole image", hint="remove it, or make it again") from err
    raise _not_eight_bits(file, mode)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What `medcli sample` wrote about a folder of samples; None if the folder holds no manifest.

    Raises:
        DataError: If the manifest can't be read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = read_json(path)
    except (InvalidJson, OSError) as err:
        raise DataError(f"{path} can't be read: {err}", hint="run the medcli sample command again") from err
    if not isinstance(manifest, dict):
        raise DataError(f"{path} does not hold a JSON object", hint="run the medcli sample command again")
    if type(manifest.get("num_images", 0)) is not int:
        raise DataError(f"{path}: num_images is no whole number", hint="run the medcli sample command again")
    return manifest


def center_crop(image: Image.Image, side: int) -> npt.NDArray[np.uint8]:
    """Cut the training square out of an image as DiT and SiT do (reference-facts 3.4).

    Halve by box averaging while the short side is at least twice the target, resize it to the target bicubically, then
    cut the middle.

    Args:
        image: Any Pillow image that converts to RGB.
        side: Side of the square, in pixels.

    Returns:
        (side, side, 3) uint8.
    """
    image = image.convert("RGB")
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)))


def to_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels in [-1, 1] to 0..255 as the samplers of DiT and SiT write them: clamp(127.5 x + 128), then truncate.

    Any shape and float type; arithmetic is float32. Values outside the range are clamped.
    """
    return (127.5 * pixels.float() + 128).clamp(0, 255).to(torch.uint8)


def _open_folder(folder: Path, num_images: int | None) -> ImageFolder:
    manifest = read_manifest(folder)
    if manifest is None:
        found = [file for file in folder.rglob("*") if _is_image(file.relative_to(folder)) and file.is_file()]
    else:
        found = [file for file in folder.iterdir() if NUMBERED.fullmatch(file.name)]
        promised = manifest.get("num_images", len(found))
        # A folder still being filled, or cut short, would be scored as something it is not.
        if num_images is None and len(found) < promised:
            raise DataError(
                f"{folder} holds {len(found)} of the {promised} images its manifest names",
                hint=f"finish it with the same medcli sample command, or pass --num-images {len(found)}",
            )
        num_images = promised if num_images is None else num_images
    files = sorted(found, key=lambda file: _numeric_order(file.relative_to(folder)))[
        : first_images(folder, len(found), num_images)
    ]
    headers = [_read_header(file) for file in files]
    modes = Counter(mode for _, mode in headers if mode != "RGB")
    kinds = [f"{count} stored as {mode}" for mode, count in sorted(modes.items())]
    return ImageFolder(
        path=folder,
        files=tuple(files),
        image_bytes=tuple(size for size, _ in headers),
        remarks=(f"{folder}: images are converted to RGB: {listed(kinds)} of {len(files)}",) if kinds else (),
    )


def _numeric_order(path: Path) -> list[tuple[bool, int, str]]:
    """Sort key in which `2.png` comes before `10.png`, whatever the zero padding."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _is_image(path: Path) -> bool:
    """Whether a name is an image's; hidden files and folders hold thumbnails and files half written."""
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)


def _read_header(file: Path) -> tuple[int, str]:
    """Bytes of an image's RGB pixels and its Pillow mode: cheap, and it finds unusable files before hours of work."""
    try:
        with Image.open(file) as image, file.open("rb") as raw:
            start = raw.read(PNG_DEPTH_AT + 1)
            is_deep = start.startswith(PNG_START) and start[-1] > 8
            if is_deep or image.mode not in EIGHT_BIT_MODES:
                raise _not_eight_bits(file, f"16-bit {image.mode}" if is_deep else image.mode)
            return 3 * image.width * image.height, image.mode
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as err:
        what = "is empty" if not file.stat().st_size else "is not an image"
        raise DataError(f"{file} {what}", hint="remove it, or make it again") from err


def _not_eight_bits(file: Path, found: str) -> DataError:
    return DataError(f"{file} is stored as {found}, expected 8 bits a channel", hint="convert it to 8-bit RGB")
