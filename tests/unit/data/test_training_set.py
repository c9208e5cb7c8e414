from __future__ import annotations

from dataclasses import replace

import torch

from medcli.data.digits import digit_latents, digit_set
from medcli.data.training_set import ArraySet, TrainingSet, flip_coins

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
    data: TrainingSet = digit_set()
    pixels, labels = digit_latents()
    read_BCYX, label_B = data.read(torch.arange(1797), torch.arange(1797), 0)
    assert torch.equal(read_BCYX, torch.from_numpy(pixels))
    assert torch.equal(label_B, torch.from_numpy(labels))
    assert (data.name, data.num_images, data.num_classes, data.shape_CYX) == ("digits", 1797, 10, (1, 8, 8))
    assert len(data.fingerprint) == 64
