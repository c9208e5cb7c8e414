"""Find and read image files. Everything Pillow raises on damaged files becomes one error that names the file."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from medcli.errors import DataError, EnvironmentProblem, listed
from medcli.runtime.files import END_BYTES, require_regular

SUFFIXES = frozenset({".bmp", ".jpg", ".jpeg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Files read as images, as by torchvision's ImageFolder, which the references read their data with."""
OTHER_SUFFIXES = frozenset(
    {
        ".apng",
        ".avif",
        ".dng",
        ".exr",
        ".gif",
        ".hdr",
        ".heic",
        ".heif",
        ".ico",
        ".j2k",
        ".jfif",
        ".jp2",
        ".jpe",
        ".jxl",
    }
    | {".pbm", ".pcx", ".pfm", ".pnm", ".psd", ".qoi", ".raw", ".svg", ".tga"}
)
"""Image files that are left out, with a remark."""
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Contents that are read, whatever the suffix; Pillow's other formats run external programs or unused code."""
EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
"""Pillow modes that convert to RGB without losing depth."""
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_DEPTH_AT = 24
"""Offset of the bit depth in a PNG. Pillow opens 16-bit RGB as if it had 8."""
MAX_PIXELS = 2**26
"""Bound on an image: decoding takes about 8 bytes a pixel."""
LARGE_PIXELS = 2**22
"""Threads decode a larger image one after the other, for a dozen of `MAX_PIXELS` would fill a memory."""
MAX_TEXT_BYTES = 64 * 2**20
"""Bound on the text of a PNG, which is not used: workflows of image tools take megabytes, Pillow's limit is one."""
ORIENTATION = 0x0112
"""EXIF tag; 1 is upright."""
UPRIGHT = (None, 0, 1)
DAMAGE = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, NotImplementedError),
    *(RuntimeError, SyntaxError, TypeError, ValueError, struct.error, zlib.error),
)
"""Raised by Pillow's plugins on damaged files, beside OSError without an error number."""

Crop = Callable[[Image.Image], npt.NDArray[np.uint8]]
_ONE_LARGE = Lock()

PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT_BYTES
# The C library keeps freed blocks of up to 32 MiB, for each thread; larger ones go back to the system.
Image.core.set_block_size(64 * 2**20)  # type: ignore[attr-defined]  # PILLOW_BLOCK_SIZE of its handbook
# Remarks on odd but readable files, and on sizes, which are checked here.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else its errors are printed


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageHeader:
    """Properties of an image file, read without decoding it."""

    width: int
    height: int
    mode: str
    """Pillow mode."""
    is_rotated: bool
    """Its EXIF data ask viewers to turn or mirror it; it is used as stored, as the references do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderContent:
    """Image files under a folder."""

    names: list[str]
    """Paths relative to the folder: those of each subfolder together, in sorted order."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Number of files of other image formats, by suffix."""
    repeated: list[str] = field(default_factory=list)
    """Links to folders that had been visited."""


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """Open an image of 8 bits per channel and translate what is raised while it is used."""
    require_regular(file)
    try:
        with file.open("rb") as raw, Image.open(raw, formats=FORMATS) as image:
            if image.format == "TIFF":
                _silence_libtiff()
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(file, f"{image.width}x{image.height} pixels")
            if (is_deep := _is_deep(raw)) or image.mode not in EIGHT_BIT_MODES:
                raise _not_eight_bits(file, f"16-bit {image.mode}" if is_deep else image.mode)
            yield image
    except UnidentifiedImageError as err:
        what = "is empty" if not file.stat().st_size else "is not an image of a known format"
        raise DataError(f"{file} {what}", hint="remove it, or write it again") from err
    except Image.DecompressionBombError as err:
        raise _too_large(file, "too many pixels") from err
    except OSError as err:
        if err.errno is not None:
            raise unreadable(file, err) from err
        raise _damaged(file) from err
    except DAMAGE as err:
        raise _damaged(file) from err


def _is_deep(raw: BinaryIO) -> bool:
    """Return True for a PNG of 16 bits per channel; the place in the file stays the same."""
    place = raw.tell()
    raw.seek(0)
    start = raw.read(PNG_DEPTH_AT + 1)
    raw.seek(place)
    return start.startswith(PNG_START) and start[-1] > 8


@cache
def _silence_libtiff() -> None:
    """Keep libtiff from printing what is wrong with a file; Pillow's error follows anyway."""
    with suppress(OSError, AttributeError, StopIteration):
        maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
        library = ctypes.CDLL(next(line.split()[-1] for line in maps if "libtiff" in line), mode=os.RTLD_NOLOAD)
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)


def read_image(file: Path, crop: Crop | None = None) -> tuple[npt.NDArray[np.uint8], str]:
    """Return the pixels of an image file, (Y, X, 3) uint8 RGB, and the Pillow mode it is stored in.

    Args:
        file: The file; of large ones, one at a time is in memory.
        crop: Gives the pixels that are wanted of the open image; None: all.

    Raises:
        DataError: If the file is not an image, is damaged, too large, or has more than 8 bits per channel.
        EnvironmentProblem: If it can't be read.
    """
    with _opened(file) as image:
        mode = image.mode
        with _ONE_LARGE if image.width * image.height > LARGE_PIXELS else nullcontext():
            return np.asarray(image.convert("RGB")) if crop is None else crop(image), mode


def read_header(file: Path) -> ImageHeader:
    """Read the header of an image file.

    Raises:
        DataError: If the file is not an image, too large, or has more than 8 bits per channel.
        EnvironmentProblem: If it can't be read.
    """
    with _opened(file) as image:
        return ImageHeader(width=image.width, height=image.height, mode=image.mode, is_rotated=_is_rotated(image))


def _is_rotated(image: Image.Image) -> bool:
    if "exif" not in image.info and image.format != "TIFF":
        return False  # getexif would decode the image to look for more
    try:
        return image.getexif().get(ORIENTATION) not in UPRIGHT
    except (OSError, *DAMAGE):
        return False  # damaged EXIF data do not matter


def file_identity(file: Path) -> bytes:
    """Return the SHA-256 of a file's size, times and last bytes, which of most formats follow from all pixels.

    The time of the last change of the inode can't be set, so other content of the same size and date is noticed.
    """
    require_regular(file)
    try:
        with file.open("rb", buffering=0) as raw:
            status = os.fstat(raw.fileno())
            raw.seek(-min(END_BYTES, status.st_size), os.SEEK_END)
            end = raw.read(END_BYTES)
    except OSError as err:
        raise unreadable(file, err) from err
    return hashlib.sha256(f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} ".encode() + end).digest()


def rotation_remark(num_rotated: int, num_images: int) -> str:
    """Remark on images that viewers turn."""
    return f"{num_rotated} of {num_images} checked images are marked as rotated (EXIF); they are used as stored"


def find_images(root: Path, start: str = ".", visited: set[tuple[int, int]] | None = None) -> FolderContent:
    """Find the image files of a folder at any depth, following links, each real folder once.

    Hidden files and folders are skipped.

    Args:
        root: Names are relative to it.
        start: The subfolder to search.
        visited: Device and inode of folders that count as visited; those found are added.

    Raises:
        DataError: If the folder does not exist.
        EnvironmentProblem: If a folder can't be read.
    """
    visited = set() if visited is None else visited
    found: dict[str, list[str]] = {}
    content = FolderContent(names=[])
    folders = [start]
    while folders:
        folder = folders.pop()
        try:
            status = os.stat(root / folder)
            if (identity := (status.st_dev, status.st_ino)) in visited:
                content.repeated.append(folder)
                continue
            visited.add(identity)
            with os.scandir(root / folder) as members:
                listing = sorted(members, key=lambda member: member.name, reverse=True)
        except OSError as err:
            raise unreadable(root / folder, err) from err
        prefix = "" if folder == "." else f"{folder}/"
        files = found.setdefault(folder, [])
        for member in listing:
            name = member.name
            suffix = name[name.rfind(".") :].lower()
            # A million times: a name with an image's suffix is taken for a file without asking the system.
            if name.startswith("."):
                continue
            if suffix in SUFFIXES and not member.is_dir(follow_symlinks=False):
                files.append(prefix + name)
            elif _is_folder(member):
                folders.append(prefix + name)
            elif suffix in OTHER_SUFFIXES:
                content.left_out[suffix] += 1
    for folder in sorted(found):
        content.names.extend(reversed(found[folder]))
    return content


def _is_folder(member: os.DirEntry[str]) -> bool:
    try:
        return member.is_dir()
    except OSError:  # a link that leads to itself
        return False


def content_remarks(root: Path, contents: list[FolderContent]) -> list[str]:
    """Remarks on files and folders that are left out."""
    left_out = sum((content.left_out for content in contents), Counter[str]())
    repeated = [name for content in contents for name in content.repeated]
    remarks = []
    if left_out:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(left_out.items()))
        remarks.append(f"{root}: image files of other formats are left out: {kinds}; convert them to PNG to use them")
    if repeated:
        remarks.append(f"{root}: links to folders that are read already are not followed: {listed(repeated)}")
    return remarks


def unreadable(path: Path, err: OSError) -> DataError | EnvironmentProblem:
    """Return the error for a file or folder that the system does not give."""
    if isinstance(err, FileNotFoundError | NotADirectoryError):
        return DataError(f"no such file or folder: {path}", hint="check the path, and where links lead")
    if isinstance(err, IsADirectoryError):
        return DataError(f"{path} is a folder, expected a file", hint="name the file")
    return EnvironmentProblem(f"{path} can't be read: {err.strerror}", hint="check its permissions and the disk")


def _damaged(file: Path) -> DataError:
    return DataError(f"{file} is not a whole image", hint="remove it, or write it again")


def _too_large(file: Path, size: str) -> DataError:
    return DataError(f"{file} has {size}, more than {MAX_PIXELS:,}", hint="scale it down, or remove it")


def _not_eight_bits(file: Path, found: str) -> DataError:
    return DataError(f"{file} is stored as {found}, expected 8 bits per channel", hint="convert it to 8-bit RGB")
