"""Decode and save finished images in threads beside the sampling loop.

One thread decodes, a few encode and write; all of them release the GIL. The loop waits only when they fall behind. The
order of images does not matter: a file and a line depend on nothing else.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np
import numpy.typing as npt
import torch

from medcli.data.autoencoder import Decoder, NotFiniteImageError
from medcli.engine.plan import FinishedImage
from medcli.errors import CheckpointError, listed

# Dimension key: B images, C latent channels, Y X height and width.

MAX_WRITERS = 4
MAX_WAITING_BATCHES = 8
"""Most decoder batches in flight, which bounds memory."""

Store = Callable[[FinishedImage, npt.NDArray[np.uint8]], None]
"""(image, pixels_YXC) -> nothing; called from several threads."""


class ImageWriter:
    """Decodes and saves finished images. Use as a context manager; leaving it waits for the last file.

    Args:
        decoder: Takes batches of one size; the last is padded.
        store: Saves an image's pixels.
    """

    def __init__(self, decoder: Decoder, store: Store) -> None:
        self._decoder, self._store = decoder, store
        self._held: list[FinishedImage] = []
        self._in_flight: deque[Future[list[Future[None]]]] = deque()
        self._decoding = ThreadPoolExecutor(1, "decode")
        self._writing = ThreadPoolExecutor(min(MAX_WRITERS, os.cpu_count() or 1), "write")

    def __enter__(self) -> ImageWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._flush()
        finally:
            self._decoding.shutdown(cancel_futures=True)
            self._writing.shutdown(cancel_futures=True)

    def add(self, image: FinishedImage) -> None:
        """Queue an image; raise the error of an earlier one."""
        self._held.append(image)
        if len(self._held) == self._decoder.batch_size:
            self._send()
        while self._in_flight and (len(self._in_flight) > MAX_WAITING_BATCHES or self._in_flight[0].done()):
            self._receive()

    def _flush(self) -> None:
        if self._held:
            self._send()
        while self._in_flight:
            self._receive()

    def _send(self) -> None:
        self._in_flight.append(self._decoding.submit(self._decode, self._held))
        self._held = []

    def _receive(self) -> None:
        for written in self._in_flight.popleft().result():
            written.result()

    def _decode(self, images: list[FinishedImage]) -> list[Future[None]]:
        padding = [images[0].latent_CYX] * (self._decoder.batch_size - len(images))
        latent_BCYX = torch.stack([image.latent_CYX for image in images] + padding)
        try:
            pixels_BYXC = self._decoder.decode(latent_BCYX).numpy()
        except NotFiniteImageError as err:
            bad = listed([str(images[row].index) for row in err.rows if row < len(images)])
            raise CheckpointError(f"image {bad}: {err.message}", hint=err.hint) from err
        return [
            self._writing.submit(self._store, image, pixels_YXC)
            for image, pixels_YXC in zip(images, pixels_BYXC, strict=False)
        ]
