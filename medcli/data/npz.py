"""Reading `.npz` files without unpickling anything and without loading images that are not needed yet."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import torch

from medcli.errors import DataError, listed
from medcli.runtime.reporting import Reporter

IMAGES_KEY = "arr_0"
"""The key `numpy.savez` gives an unnamed array; DiT, SiT and ADM write their images under it."""
PIECE_BYTES = 2**20
"""Bytes read from an archive at once."""


def npz_keys(path: Path) -> frozenset[str]:
    """Names of the arrays in an npz file.

    Raises:
        DataError: If the file is not a whole zip archive.
    """
    with _opened(path) as archive:
        return frozenset(name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy"))


def read_array(path: Path, key: str) -> npt.NDArray[np.generic]:
    """Load one array whole; object arrays are refused.

    Raises:
        DataError: If the file is damaged or the array needs pickled objects.
    """
    with _member(path, key) as member:
        return np.lib.format.read_array(member, allow_pickle=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageArchive:
    """Images of an npz file, streamed out of the zip in order."""

    path: Path
    num_images: int
    """Images that are read: the first ones, where fewer were asked for than are there."""
    bytes_per_image: int

    @property
    def name(self) -> str:
        """What messages and reports call it."""
        return str(self.path)

    @property
    def image_bytes(self) -> Sequence[int]:
        """Bytes of each image's pixels; all have one size."""
        return [self.bytes_per_image] * self.num_images

    @property
    def remarks(self) -> tuple[str, ...]:
        """Nothing: the images are taken as they are."""
        return ()

    def batches(self, batch_size: int, reporter: Reporter) -> Iterator[torch.Tensor]:
        """Yield (B, Y, X, 3) uint8 batches in file order, B = `batch_size` but for the last.

        Raises:
            DataError: If the archive breaks off.
        """
        starts = range(0, self.num_images, batch_size)
        return self._spans(range(start, min(start + batch_size, self.num_images)) for start in starts)

    def read(self, ranges: Iterable[range]) -> Iterator[list[torch.Tensor]]:
        """Yield the images of each range, (Y, X, 3) uint8. What lies between is read and passed over: it may be zipped.

        Raises:
            DataError: If the archive breaks off.
        """
        return (list(images_NYXC) for images_NYXC in self._spans(ranges))

    def _spans(self, ranges: Iterable[range]) -> Iterator[torch.Tensor]:
        """(N, Y, X, 3) uint8 of each range."""
        with _member(self.path, IMAGES_KEY) as member:
            shape, is_fortran, _ = _header(member)
            if is_fortran:  # the images are interleaved: there is nothing to stream
                whole = torch.from_numpy(np.ascontiguousarray(read_array(self.path, IMAGES_KEY)))
                yield from (whole[span.start : span.stop] for span in ranges)
                return
            place = 0
            for span in ranges:
                for _ in self._pieces(member, (span.start - place) * self.bytes_per_image):
                    pass
                pixels, place = np.empty(len(span) * self.bytes_per_image, np.uint8), span.stop
                filled = 0
                for piece in self._pieces(member, len(pixels)):
                    pixels[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
                    filled += len(piece)
                yield torch.from_numpy(pixels).view(len(span), *shape[1:])

    def _pieces(self, member: IO[bytes], num_bytes: int) -> Iterator[bytes]:
        """Read on by so many bytes; checksums are verified on the way."""
        while num_bytes:
            piece = member.read(min(PIECE_BYTES, num_bytes))
            if not piece:
                raise _damaged(self.path)
            num_bytes -= len(piece)
            yield piece


def open_archive(path: Path, num_images: int | None = None) -> ImageArchive:
    """Check, from the header alone, that an npz file holds 8-bit RGB images.

    Args:
        path: An npz with `arr_0`.
        num_images: How many to read, from the first; None reads all.

    Raises:
        DataError: If the key, the type or the layout is not what samplers write; the message says what was found.
    """
    keys = npz_keys(path)
    if IMAGES_KEY not in keys:
        raise DataError(
            f"{path} has no {IMAGES_KEY} (found: {listed(sorted(keys)) or 'nothing'})",
            hint="save the images with numpy.savez(path, images): uint8, (N, height, width, 3)",
        )
    with _member(path, IMAGES_KEY) as member:
        shape, _, dtype = _header(member)
    _check_layout(path, shape, dtype)
    num_images = first_images(path, shape[0], num_images)
    return ImageArchive(path=path, num_images=num_images, bytes_per_image=math.prod(shape[1:]))


def first_images(path: Path, num_found: int, num_wanted: int | None) -> int:
    """How many images to read: all, or the first `num_wanted`.

    Raises:
        DataError: If there are none, or fewer than wanted.
    """
    if not num_found:
        raise DataError(f"{path} holds no images", hint="expected .png, .jpg or .webp files, or an .npz with arr_0")
    if num_wanted is not None and num_wanted > num_found:
        raise DataError(f"{path} holds {num_found} images, {num_wanted} were asked for", hint="lower --num-images")
    return num_found if num_wanted is None else num_wanted


def _check_layout(path: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
    wanted = "expected uint8 in 0..255, shape (N, height, width, 3)"
    found = f"{path}: {IMAGES_KEY} is {dtype} of shape {shape}"
    if dtype.hasobject:
        raise DataError(f"{found}: pickled objects are never read", hint=wanted)
    if dtype != np.uint8:
        how = "np.uint8(np.clip(127.5 * x + 128, 0, 255)) for x in [-1, 1], 255 * x for x in [0, 1]"
        raise DataError(f"{found}; {wanted}", hint=f"convert it, for instance {how}")
    if len(shape) != 4 or shape[3] != 3 or 0 in shape[1:]:
        is_channels_first = len(shape) == 4 and shape[1] == 3
        how = "arr.transpose(0, 2, 3, 1)" if is_channels_first else "np.repeat(arr, 3, axis=3) for one grey channel"
        raise DataError(f"{found}; {wanted}", hint=f"change the layout, for instance {how}")


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(member)
    return np.lib.format.read_array_header_2_0(member)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open the archive; whatever shows that it is damaged, while it is read too, becomes one error."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError) as err:
        raise _damaged(path) from err


@contextmanager
def _member(path: Path, key: str) -> Iterator[IO[bytes]]:
    with _opened(path) as archive, archive.open(f"{key}.npy") as member:
        yield member


def _damaged(path: Path) -> DataError:
    return DataError(
        f"{path} is not a whole .npz file", hint="copy or write it again; numpy.load must be able to read it"
    )
