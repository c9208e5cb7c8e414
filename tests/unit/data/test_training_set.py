from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from medcli.data.bundled_set import bundled_images, bundled_set
from medcli.data.training_set import ArraySet, LenientSet, TrainingSet, flip_coins
from medcli.errors import DataError

SET = ArraySet("numbers", torch.arange(12.0).view(6, 2, 1, 1), torch.tensor([0, 1, 2, 0, 1, 4]))


def test_rows_are_read_in_the_order_asked_for_whatever_the_seed_and_position() -> None:
    pick_B = torch.tensor([5, 0, 5])
    for seed, start in ((0, 0), (7, 1000)):
        images_BCYX, labels_B = SET.read(pick_B, torch.arange(3) + start, seed)
        assert images_BCYX[:, 0, 0, 0].tolist() == [10, 0, 10]
        assert labels_B.tolist() == [4, 0, 4]
    assert (SET.num_images, SET.num_classes, SET.shape_CYX) == (6, 5, (2, 1, 1))


def test_equal_sets_and_only_those_have_equal_fingerprints() -> None:
    assert replace(SET, name="other", data_NCYX=SET.data_NCYX.clone()).fingerprint == SET.fingerprint
    others = [
        replace(SET, data_NCYX=SET.data_NCYX + 1),
        replace(SET, data_NCYX=SET.data_NCYX.view(6, 1, 2, 1)),
        replace(SET, labels_N=SET.labels_N.flip(0)),
    ]
    assert len({SET.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_coins_are_fair_and_belong_to_seed_and_position() -> None:
    coins = flip_coins(torch.arange(10_000), 3)
    assert 4_800 < int(coins.sum()) < 5_200
    assert torch.equal(flip_coins(torch.tensor([17, 4]), 3), coins[[17, 4]])
    assert not torch.equal(flip_coins(torch.arange(10_000), 4), coins)


def test_digits_are_pixels_that_are_never_mirrored() -> None:
    data: TrainingSet = bundled_set("digits")
    pixels, labels = bundled_images("digits").latents(), bundled_images("digits").labels.astype("int64")
    read_BCYX, label_B = data.read(torch.arange(1797), torch.arange(1797), 0)
    assert torch.equal(read_BCYX, torch.from_numpy(pixels))
    assert torch.equal(label_B, torch.from_numpy(labels))
    assert (data.name, data.num_images, data.num_classes, data.shape_CYX) == ("digits", 1797, 10, (1, 8, 8))
    assert len(data.fingerprint) == 64


class Torn:
    """The set, of which some images can't be read."""

    def __init__(self, numbers: set[int]) -> None:
        self.numbers = numbers
        self.name, self.num_images, self.num_classes = SET.name, SET.num_images, SET.num_classes
        self.shape_CYX, self.fingerprint, self.class_names = SET.shape_CYX, SET.fingerprint, SET.class_names

    def read(self, pick_B: torch.Tensor, position_B: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        if bad := [pick for pick in pick_B.tolist() if pick in self.numbers]:
            raise DataError(f"image {bad[0]} is torn")
        return SET.read(pick_B, position_B, seed)


def test_the_next_readable_image_takes_the_place_of_an_unreadable_one() -> None:
    data = LenientSet(Torn({1, 2, 5}))
    images_BCYX, labels_B = data.read(torch.tensor([0, 1, 5, 4, 1]), torch.arange(5), 0)
    assert (images_BCYX[:, 0, 0, 0] / 2).tolist() == [0, 3, 0, 4, 3]
    assert labels_B.tolist() == [0, 0, 0, 1, 0]
    assert data.unreadable == {number: f"image {number} is torn" for number in (1, 2, 5)}
    assert data.max_unreadable == 3


def test_the_replacements_of_unreadable_images_are_expected() -> None:
    class Ahead(Torn):
        def expect(self, pick_B: torch.Tensor, position_B: torch.Tensor, seed: int) -> None:
            expected.append((pick_B.tolist(), position_B.tolist(), seed))

    expected: list[tuple[list[int], list[int], int]] = []
    data = LenientSet(Ahead({1}))
    data.read(torch.tensor([1]), torch.tensor([0]), 3)
    data.expect(torch.tensor([4, 1]), torch.tensor([5, 6]), 3)
    assert expected == [([4, 2], [5, 6], 3)]
    LenientSet(Torn(set())).expect(torch.tensor([4]), torch.tensor([5]), 3)  # a set in memory reads nothing ahead


def test_too_many_unreadable_images_are_an_error_that_names_one() -> None:
    data = LenientSet(Torn({1, 2, 3, 5}))
    with pytest.raises(DataError, match="4 images of numbers can't be read, the last: image 5 is torn"):
        data.read(torch.arange(6), torch.arange(6), 0)
    with pytest.raises(DataError, match="4 images of numbers"):  # batches are read ahead, after a failed one too
        data.read(torch.tensor([0]), torch.tensor([6]), 0)


def test_a_set_without_readable_images_fails_each_time_it_is_read() -> None:
    data = LenientSet(Torn(set(range(6))))
    for _ in range(3):
        with pytest.raises(DataError, match="can't be read"):
            data.read(torch.arange(6), torch.arange(6), 0)


def test_readable_sets_are_read_as_they_are() -> None:
    data = LenientSet(SET)
    assert (data.name, data.num_images, data.fingerprint) == (SET.name, 6, SET.fingerprint)
    for part, wanted in zip(data.read(torch.arange(6), torch.arange(6), 0), (SET.data_NCYX, SET.labels_N), strict=True):
        assert torch.equal(part, wanted)
    assert data.unreadable == {}
