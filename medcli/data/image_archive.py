"""Images of `.npz` files, streamed without loading them all."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from medcli.data.image_files import file_identity
from medcli.data.image_source import ImageSource
from medcli.data.npz import Array, ArrayHeader, npz_keys, opened_array, pieces, read_array
from medcli.errors import DataError, listed

IMAGES_KEY = "arr_0"
"""Key of an unnamed array in `numpy.savez`; DiT, SiT and ADM store their images under it."""
MAX_IMAGE_BYTES = 3 * 2**26
"""Bound on one image."""
RGB_BYTES = "uint8 in 0..255, shape (N, height, width, 3)"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageArchive(ImageSource):
    """Images of an npz file, streamed from the zip in order."""

    path: Path
    key: str = IMAGES_KEY

    def read(self, ranges: Iterable[range]) -> Iterator[list[torch.Tensor]]:
        """Yield the images of each range, (Y, X, 3) uint8. Images between them are read and skipped, as in any zip."""
        return (list(images_NYXC) for images_NYXC in self._spans(ranges))

    def identity(self, span: range) -> bytes | None:
        """Return the SHA-256 of the archive's size, times and sampled bytes, and of the numbers of the images."""
        state = file_identity(self.path)
        return hashlib.sha256(state + f"{self.key} {list(self.places[span.start : span.stop])}".encode()).digest()

    def _spans(self, ranges: Iterable[range]) -> Iterator[torch.Tensor]:
        """Yield (N, Y, X, 3) uint8 of each range of the images that are read; others are skipped, never held."""
        with opened_array(self.path, self.key) as (header, member):
            if header.is_fortran:  # the images are interleaved and can't be streamed
                whole = read_array(self.path, self.key)
                for span in ranges:
                    places = self.places[span.start : span.stop]
                    yield torch.from_numpy(self._as_bytes(np.ascontiguousarray(whole[list(places)]), places))
                return
            next_place, size = 0, math.prod(header.shape[1:]) * header.dtype.itemsize
            for span in ranges:  # each is taken when its images are needed
                places = self.places[span.start : span.stop]
                stored, filled = np.empty(len(places) * size, np.uint8), 0
                for run in _runs(places):
                    for _ in pieces(member, (run.start - next_place) * size):
                        pass
                    for piece in pieces(member, len(run) * size):
                        stored[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
                        filled += len(piece)
                    next_place = run.stop
                images_NYXC = stored.view(header.dtype).reshape(len(places), *header.shape[1:])
                yield torch.from_numpy(self._as_bytes(images_NYXC, places))

    def _as_bytes(self, images_NYXC: Array, places: Sequence[int]) -> npt.NDArray[np.uint8]:
        if images_NYXC.dtype == np.uint8:
            return images_NYXC.astype(np.uint8, copy=False)
        for index, image_YXC in zip(places, images_NYXC, strict=True):
            if not _is_whole(image_YXC):
                raise DataError(
                    f"{self.path}: image {index} of {self.key} has values that are not whole numbers in 0..255",
                    hint="convert all images to uint8",
                )
        return images_NYXC.astype(np.uint8)


def _runs(places: Sequence[int]) -> Iterable[range]:
    """Split rising numbers into runs without gaps; single ones unless all are one run."""
    return (places,) if isinstance(places, range) else (range(place, place + 1) for place in places)


def open_archive(path: Path, num_images: int | None = None, seed: int | None = None) -> ImageArchive:
    """Open the images of an npz file, after checks of the header and of the first image.

    Args:
        path: An npz with `arr_0`, or with a single array of image shape.
        num_images, seed: See `chosen_places`.

    Raises:
        DataError: If the key, the type or the layout is not that of images; the message names what was found.
        EnvironmentProblem: If the file can't be read.
    """
    keys = npz_keys(path)
    key = IMAGES_KEY if IMAGES_KEY in keys else _image_key(path, keys)
    with opened_array(path, key) as (header, member):
        _check_layout(path, key, header)
        remarks: tuple[str, ...] = ()
        if header.dtype != np.uint8:
            size = math.prod(header.shape[1:]) * header.dtype.itemsize
            first = b"" if header.is_fortran else b"".join(pieces(member, size if header.shape[0] else 0))
            _check_values(path, key, header, np.frombuffer(first, header.dtype))
            remarks = (f"{path}: images are stored as {header.dtype} and converted to uint8",)
    places = chosen_places(path, header.shape[0], num_images, seed)
    image_bytes = [math.prod(header.shape[1:])] * len(places)
    return ImageArchive(name=str(path), places=places, image_bytes=image_bytes, remarks=remarks, path=path, key=key)


def _image_key(path: Path, keys: frozenset[str]) -> str:
    """Return the name of the only array of image shape."""
    found = []
    for key in sorted(keys):
        with opened_array(path, key) as (header, _):
            pass
        if len(header.shape) == 4 and header.shape[3] == 3 and header.dtype.kind in "iuf":
            found.append(key)
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{path} holds several arrays of images: {listed(found)}", hint="keep one, or name it arr_0")
    raise DataError(
        f"{path} has no {IMAGES_KEY} (found: {listed(sorted(keys)) or 'nothing'})",
        hint="save the images with numpy.savez(path, images): uint8, (N, height, width, 3)",
    )


def chosen_places(path: Path, num_found: int, num_wanted: int | None, seed: int | None = None) -> Sequence[int]:
    """Return the numbers of the images to read, rising: all, or some of them, from every class of a sorted folder.

    Args:
        path: The set, for messages.
        num_found: Number of images in it.
        num_wanted: Number to read; None: all.
        seed: Draw them at random by this seed; None: spread them evenly.

    Raises:
        DataError: If there are none, or fewer than wanted.
    """
    if not num_found:
        raise DataError(f"{path} holds no images", hint="expected .png, .jpg or .webp files, or an .npz with arr_0")
    if num_wanted is not None and num_wanted > num_found:
        raise DataError(f"{path} holds {num_found} images, {num_wanted} were asked for", hint="lower --num-images")
    if num_wanted is None:
        return range(num_found)
    if seed is None:
        return spread(num_found, num_wanted)
    return sorted(random.Random(seed).sample(range(num_found), num_wanted))


def spread(num_found: int, num_wanted: int) -> list[int]:
    """Return numbers spread evenly over N: 0, N / n, 2 N / n ..., rounded down."""
    return [place * num_found // num_wanted for place in range(num_wanted)]


def _check_layout(path: Path, key: str, header: ArrayHeader) -> None:
    shape = header.shape
    found = f"{path}: {key} is {header.dtype} of shape {shape}; expected {RGB_BYTES}"
    if header.dtype.kind not in "iuf":
        raise DataError(found, hint="save the pixels as uint8")
    if len(shape) != 4 or shape[3] != 3 or 0 in shape[1:]:
        raise DataError(found, hint=f"change the layout, for instance {_layout_hint(shape)}")
    if math.prod(shape[1:]) > MAX_IMAGE_BYTES:
        raise DataError(f"{found}: images are too large", hint="scale the images down")


def _layout_hint(shape: tuple[int, ...]) -> str:
    """Return numpy code that makes RGB images of an array of this shape."""
    if len(shape) == 3 and shape[2] == 3:
        return "arr[None] for a single image"
    if len(shape) == 3:
        return "np.repeat(arr[..., None], 3, axis=3) for grey images"
    if len(shape) != 4:
        return "arr.reshape(-1, height, width, 3)"
    return {
        (False, 4): "arr[..., :3] to drop the alpha channel",
        (False, 1): "np.repeat(arr, 3, axis=3) for one grey channel",
        (True, 3): "arr.transpose(0, 2, 3, 1)",
        (True, 4): "arr[:, :3].transpose(0, 2, 3, 1)",
        (True, 1): "np.repeat(arr, 3, axis=1).transpose(0, 2, 3, 1)",
    }.get((shape[1] < shape[3], min(shape[1], shape[3])), "arr.reshape(-1, height, width, 3)")


def _check_values(path: Path, key: str, header: ArrayHeader, first: Array) -> None:
    """Refuse values of the first image that are not whole numbers in 0..255, with the conversion that fits them."""
    if _is_whole(first):
        return
    found = f"{path}: {key} is {header.dtype} with values that are not whole numbers in 0..255; expected {RGB_BYTES}"
    if not np.isfinite(first).all():
        raise DataError(f"{path}: {key} holds values that are not finite", hint="make the images again")
    low, high = float(first.min()), float(first.max())
    hint = "scale the values to 0..255 and convert them: np.uint8(...)"
    if low >= 0 and high <= 1:
        hint = "convert values in [0, 1]: np.uint8(np.round(255 * x))"
    elif low >= -1 and high <= 1:
        hint = "convert values in [-1, 1]: np.uint8(np.clip(127.5 * x + 128, 0, 255))"
    elif low >= -0.5 and high < 256:
        hint = "round the values: np.uint8(np.clip(np.round(x), 0, 255))"
    raise DataError(found, hint=hint)


def _is_whole(values: Array) -> bool:
    """Return True if all values are whole numbers in 0..255."""
    with np.errstate(invalid="ignore"):
        return bool(((values >= 0) & (values <= 255) & (values == np.floor(values))).all())  # type: ignore[operator]
