"""Folders of image files for scoring, inspected by a sample of their headers."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import PIL
import torch

from medcli.data.image_archive import spread
from medcli.data.image_files import ImageHeader, file_identity, read_header, read_image, rotation_remark
from medcli.data.image_source import ImageSource
from medcli.data.parallel_read import MAX_THREADS, read_all
from medcli.errors import listed

NUM_DECODERS = 8
"""Threads that decode image files; Pillow releases the interpreter lock."""
MAX_SURVEYED = 256
"""Files whose headers are read first; all are where these have several sizes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFolder(ImageSource):
    """Image files in numeric order.

    `image_bytes` come from the headers, or those of a sample of files of one size.
    """

    path: Path
    files: tuple[Path, ...]

    def read(self, ranges: Iterable[range]) -> Iterator[list[torch.Tensor]]:
        """Yield the images of each range, several files decoded at once."""
        with ThreadPoolExecutor(NUM_DECODERS) as decoders:
            for span in ranges:
                pixels = decoders.map(read_image, self.files[span.start : span.stop])
                yield [torch.from_numpy(pixels_YXC.copy()) for pixels_YXC, _ in pixels]

    def identity(self, span: range) -> bytes | None:
        """Return the SHA-256 of the name, size, times and last bytes of each file of a range."""
        files = self.files[span.start : span.stop]
        digest = hashlib.sha256(PIL.__version__.encode())  # another version may decode other pixels
        for file, content in zip(files, read_all(file_identity, files, MAX_THREADS), strict=True):
            digest.update(os.fsencode(file.relative_to(self.path)) + b"\n" + content)
        return digest.digest()


def open_folder(folder: Path, files: Sequence[Path], remarks: Sequence[str] = ()) -> ImageFolder:
    """Read the headers of a sample of the files of a folder, of all if their sizes differ.

    Raises:
        DataError: If a file of the sample is no image, too large, or has more than 8 bits per channel.
        EnvironmentProblem: If one can't be read.
    """
    image_bytes, more = survey(folder, files)
    return ImageFolder(
        name=str(folder),
        places=[int(file.stem) if file.stem.isdecimal() else place for place, file in enumerate(files)],
        image_bytes=image_bytes,
        remarks=(*remarks, *more),
        path=folder,
        files=tuple(files),
    )


def survey(folder: Path, files: Sequence[Path]) -> tuple[Sequence[int], list[str]]:
    """Read the headers of a sample of the files of a folder, of all if their sizes differ.

    Returns:
        Bytes of each image as RGB, and remarks on the images.

    Raises:
        DataError: If a file of the sample is no image, too large, or has more than 8 bits per channel.
        EnvironmentProblem: If one can't be read.
    """
    checked = [files[place] for place in spread(len(files), min(MAX_SURVEYED, len(files)))]
    headers = read_all(read_header, checked, MAX_THREADS)
    if len(checked) < len(files) and len(set(map(_num_bytes, headers))) > 1:
        headers = read_all(read_header, files, MAX_THREADS)
    remarks = []
    modes = Counter(header.mode for header in headers if header.mode != "RGB")
    which = f"{len(headers)}" if len(headers) == len(files) else f"{len(headers)} checked"
    if modes:
        kinds = [f"{count} stored as {mode}" for mode, count in sorted(modes.items())]
        remarks.append(f"{folder}: images are converted to RGB: {listed(kinds)} of {which}")
    if num_rotated := sum(header.is_rotated for header in headers):
        remarks.append(f"{folder}: {rotation_remark(num_rotated, len(headers))}")
    sizes = list(map(_num_bytes, headers))
    return sizes if len(headers) == len(files) else sizes[:1] * len(files), remarks


def _num_bytes(header: ImageHeader) -> int:
    return 3 * header.width * header.height
