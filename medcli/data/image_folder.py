"""Folders of image files for scoring, inspected by a sample of their headers."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import PIL
import torch

from medcli.data.image_archive import spread
from medcli.data.image_files import ImageHeader, file_identity, read_header, read_image, rotation_remark
from medcli.data.parallel_read import MAX_THREADS, read_all
from medcli.errors import listed
from medcli.runtime.reporting import Reporter

NUM_DECODERS = 8
"""Threads that decode image files; Pillow releases the interpreter lock."""
MAX_SURVEYED = 256
"""Files whose headers are read first; all are where these have several sizes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFolder:
    """Image files in numeric order."""

    path: Path
    files: tuple[Path, ...]
    image_bytes: Sequence[int]
    """Bytes of each image as RGB, 3 Y X, from its header or that of a sample of files of one size."""
    remarks: tuple[str, ...] = ()
    """Remarks for the user on how the images are read."""

    @property
    def name(self) -> str:
        """Name in messages and reports."""
        return str(self.path)

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.files)

    @property
    def places(self) -> Sequence[int]:
        """Number of each file: its name in a sample folder, else its position."""
        return [int(file.stem) if file.stem.isdecimal() else place for place, file in enumerate(self.files)]

    def batches(self, batch_size: int, reporter: Reporter) -> Iterator[torch.Tensor]:
        """Yield batches; a batch ends early where the next image has another size, so sizes may differ.

        Raises:
            DataError: If a file is not an image, is damaged, or has more than 8 bits per channel.
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
            DataError: If a file is not an image, is damaged, or has more than 8 bits per channel.
        """
        with ThreadPoolExecutor(NUM_DECODERS) as decoders:
            for span in ranges:
                pixels = decoders.map(read_image, self.files[span.start : span.stop])
                yield [torch.from_numpy(pixels_YXC.copy()) for pixels_YXC, _ in pixels]

    def identity(self, span: range) -> bytes | None:
        """Return the SHA-256 of the name, size, times and last bytes of each file of a range.

        Raises:
            DataError: If a file is missing.
            EnvironmentProblem: If one can't be read.
        """
        files = self.files[span.start : span.stop]
        digest = hashlib.sha256(PIL.__version__.encode())  # another version may decode other pixels
        for file, content in zip(files, read_all(file_identity, files, MAX_THREADS), strict=True):
            digest.update(f"{file.relative_to(self.path)}\n".encode() + content)
        return digest.digest()


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


def equal_sizes(images: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Split a sequence of (Y, X, 3) images where the size changes."""
    run: list[torch.Tensor] = []
    for image_YXC in images:
        if run and run[0].shape != image_YXC.shape:
            yield run
            run = []
        run.append(image_YXC)
    if run:
        yield run
