"""Sets of images for scoring: a finite, ordered sequence that can be read again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSource(ABC):
    """A finite, ordered set of images that can be read again."""

    name: str
    """Name in messages and reports."""
    places: Sequence[int]
    """Number of each image in its set, rising: in a sample folder that of its file."""
    image_bytes: Sequence[int]
    """Bytes of each image as RGB, 3 Y X, known before reading."""
    remarks: tuple[str, ...] = ()
    """Remarks for the user on how the images are read."""

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.places)

    @abstractmethod
    def read(self, ranges: Iterable[range]) -> Iterator[list[torch.Tensor]]:
        """Yield the images of each range, (Y, X, 3) uint8 RGB.

        Ranges rise and do not overlap; each is taken when its images are needed.

        Raises:
            DataError: If an image is damaged, or has more than 8 bits per channel.
        """

    @abstractmethod
    def identity(self, span: range) -> bytes | None:
        """Return what identifies the images of a range without decoding them; None: their pixels alone do.

        Raises:
            DataError: If a file is missing.
            EnvironmentProblem: If one can't be read.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageArray(ImageSource):
    """Images already in memory."""

    images_NYXC: torch.Tensor
    """(N, Y, X, 3) uint8 RGB."""

    @classmethod
    def of(cls, name: str, images_NYXC: torch.Tensor) -> ImageArray:
        """Name (N, Y, X, 3) uint8 RGB images."""
        number, num_bytes = len(images_NYXC), images_NYXC[0].numel()
        return cls(name=name, places=range(number), image_bytes=[num_bytes] * number, images_NYXC=images_NYXC)

    def read(self, ranges: Iterable[range]) -> Iterator[list[torch.Tensor]]:
        """Yield the images of each range."""
        for span in ranges:
            yield list(self.images_NYXC[span.start : span.stop])

    def identity(self, span: range) -> bytes | None:
        """Return None: there are no files."""
