from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from medcli.data.autoencoder import NotFiniteImageError
from medcli.engine.decode_and_save import MAX_WAITING_BATCHES, ImageWriter
from medcli.engine.plan import FinishedImage
from medcli.errors import CheckpointError


@dataclass
class WatchedDecoder:
    """Pixels that tell the latent; remembers its batches."""

    batch_size: int = 4
    rows: list[int] = field(default_factory=list)

    def decode(self, latent_BCYX: Tensor) -> Tensor:
        self.rows.append(len(latent_BCYX))
        return latent_BCYX.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).to(torch.uint8)


def image_of(index: int, value: float | None = None) -> FinishedImage:
    return FinishedImage(index, 0, torch.full((1, 2, 2), index if value is None else value), (), (1,))


def test_every_image_is_stored_with_its_own_pixels_in_batches_of_one_size() -> None:
    decoder, stored = WatchedDecoder(), dict[int, np.ndarray]()
    with ImageWriter(decoder, lambda image, pixels: stored.update({image.index: pixels})) as finishing:
        for index in range(99):
            finishing.add(image_of(index))
    assert sorted(stored) == list(range(99))
    assert all((pixels == index).all() and pixels.shape == (2, 2, 3) for index, pixels in stored.items())
    assert decoder.rows == [4] * 25


def test_what_goes_wrong_in_a_thread_reaches_the_loop() -> None:
    def full_disk(image: FinishedImage, pixels: np.ndarray) -> None:
        if image.index == 5:
            raise OSError("no space")

    def run() -> None:
        with ImageWriter(WatchedDecoder(), full_disk) as finishing:
            for index in range(1000):
                finishing.add(image_of(index))
                last.append(index)

    last: list[int] = []
    with pytest.raises(OSError, match="no space"):
        run()
    assert last[-1] < 999, "the loop should have been stopped soon"


class NanDecoder(WatchedDecoder):
    def decode(self, latent_BCYX: torch.Tensor) -> torch.Tensor:
        if len(self.rows) == 1:
            raise NotFiniteImageError([0, 2])
        return super().decode(latent_BCYX)


def test_an_image_that_decodes_to_no_numbers_is_named_and_not_stored() -> None:
    stored: list[int] = []

    def run() -> None:
        with ImageWriter(NanDecoder(batch_size=4), lambda image, pixels: stored.append(image.index)) as finishing:
            for index in range(7):  # the second batch is padded
                finishing.add(image_of(index))

    with pytest.raises(CheckpointError, match="^image 4, 6: the autoencoder decodes it to NaN"):
        run()
    assert set(stored) <= {0, 1, 2, 3}


def test_the_loop_waits_when_writing_falls_behind() -> None:
    may_write, stored = threading.Event(), list[int]()

    def slow(image: FinishedImage, pixels: np.ndarray) -> None:
        assert may_write.wait(60)
        stored.append(image.index)

    taken: list[int] = []

    def produce() -> None:
        with ImageWriter(WatchedDecoder(batch_size=1), slow) as finishing:
            for index in range(100):
                finishing.add(image_of(index))
                taken.append(index)

    producer = threading.Thread(target=produce)
    producer.start()
    producer.join(0.3)
    assert len(taken) <= MAX_WAITING_BATCHES
    may_write.set()
    producer.join(60)
    assert sorted(stored) == list(range(100))
