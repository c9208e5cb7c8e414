"""Image sets cut into shards, the unit in which features are computed, kept and shared between processes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from medcli.data.images import ImageSource

SHARD_IMAGES = 1024
SHARD_BYTES = 192 * 2**20
"""Most pixels of a shard: those of 1024 images of 256 x 256. They are held until their hash is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """Some images of a set, one after the other."""

    number: int
    images: Sequence[torch.Tensor]
    """(Y, X, 3) uint8 each."""
    digests: tuple[bytes, ...]
    """SHA-256 of each image's size and pixels."""


def plan_shards(
    image_bytes: Sequence[int], *, max_images: int = SHARD_IMAGES, max_bytes: int = SHARD_BYTES
) -> tuple[range, ...]:
    """Cut a set into shards: as many images as both limits allow, at least one.

    The cuts depend on the sizes of the images alone, so a folder and an npz of the same images are cut alike.

    Args:
        image_bytes: Size of each image's pixels.
        max_images: Most images of a shard.
        max_bytes: Most bytes of a shard.
    """
    cuts, size = [0], 0
    for index, num_bytes in enumerate(image_bytes):
        if index > cuts[-1] and (index - cuts[-1] == max_images or size + num_bytes > max_bytes):
            cuts.append(index)
            size = 0
        size += num_bytes
    return tuple(range(start, stop) for start, stop in zip(cuts, [*cuts[1:], len(image_bytes)], strict=True))


def read_shards(source: ImageSource, shards: Sequence[range], numbers: Iterable[int]) -> Iterator[Shard]:
    """Read shards in the order of `numbers`, which rise; each is asked for when it is about to be read."""
    taken: list[int] = []

    def ranges() -> Iterator[range]:
        for number in numbers:
            taken.append(number)
            yield shards[number]

    for images in source.read(ranges()):
        yield Shard(number=taken[-1], images=images, digests=tuple(map(image_digest, images)))


def image_digest(image_YXC: torch.Tensor) -> bytes:
    """SHA-256 of an image's height, width and pixels."""
    digest = hashlib.sha256(f"{tuple(image_YXC.shape)}".encode())
    digest.update(image_YXC.reshape(-1).numpy().data)
    return digest.digest()


def content_sha256(digests: Iterable[bytes]) -> str:
    """Hash of a set of images in order: one and the same for PNGs and an npz of them, however it is cut."""
    return hashlib.sha256(b"".join(digests)).hexdigest()
