from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medcli.data.autoencoder import LatentEncoder, open_encoder
from medcli.data.image_listing import list_images
from medcli.data.image_set import EncodedSet, PixelSet, read_pixels
from medcli.data.images import center_crop
from medcli.data.training_set import flip_coins
from medcli.errors import DataError
from medcli.runtime.noise import Stream, normal
from tests.unit.data.test_autoencoder import save_tiny_autoencoder
from tests.unit.data.tiny_data import LATENTS, RES, Notes, levels, save_classes, save_image

POSITIONS = torch.arange(100, 112)


def pixel_set(root: Path, *, channels: int = 3, side_px: int = 8, flip: bool = True) -> PixelSet:
    return PixelSet(name=str(root), listing=list_images(root, Notes()), channels=channels, side_px=side_px, flip=flip)


def as_the_references_do(number: int, size: tuple[int, int], side_px: int) -> torch.Tensor:
    square_YXC = center_crop(Image.fromarray(levels(number, size)), side_px)
    return (torch.from_numpy(square_YXC.copy()).permute(2, 0, 1) / 255 - 0.5) / 0.5


def test_pixels_are_cropped_scaled_and_mirrored_by_coin(tmp_path: Path) -> None:
    data = pixel_set(save_classes(tmp_path, {"a": 8, "b": 4}, (20, 31)))
    pixels_BCYX, labels_B = data.read(torch.arange(12), POSITIONS, 5)
    coins = flip_coins(POSITIONS, 5).tolist()
    assert 0 < sum(coins) < 12
    for number, (pixels_CYX, coin) in enumerate(zip(pixels_BCYX, coins, strict=True)):
        expected = as_the_references_do(number, (20, 31), 8)
        assert torch.equal(pixels_CYX, expected.flip(-1) if coin else expected)
        assert not torch.equal(expected, expected.flip(-1))
    assert (pixels_BCYX.dtype, pixels_BCYX.min() >= -1, pixels_BCYX.max() <= 1) == (torch.float32, True, True)
    assert labels_B.tolist() == [0] * 8 + [1] * 4
    assert labels_B.dtype == torch.int64
    assert (data.num_images, data.num_classes, data.shape_CYX) == (12, 2, (3, 8, 8))


def test_without_flips_nothing_is_mirrored(tmp_path: Path) -> None:
    data = pixel_set(save_classes(tmp_path, {"a": 6, "b": 6}), flip=False)
    pixels_BCYX, _ = data.read(torch.arange(12), POSITIONS, 5)
    for number, pixels_CYX in enumerate(pixels_BCYX):
        assert torch.equal(pixels_CYX, as_the_references_do(number, (32, 32), 8))


def test_grey_models_get_grey_and_grey_files_keep_their_levels(tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    (tmp_path / "a").mkdir()
    Image.fromarray(grey).save(tmp_path / "a/0.png")
    save_image(tmp_path / "a/1.png", 1, (8, 8))
    pixels_BCYX, _ = pixel_set(tmp_path, channels=1, flip=False).read(torch.arange(2), torch.arange(2), 0)
    assert pixels_BCYX.shape == (2, 1, 8, 8)
    assert torch.equal(pixels_BCYX[0, 0], (torch.from_numpy(grey) / 255 - 0.5) / 0.5)
    luma = (levels(1, (8, 8)) @ np.array([299, 587, 114])) / 1000
    assert np.abs((pixels_BCYX[1, 0].numpy() + 1) * 127.5 - luma).max() < 1


def test_damaged_images_are_counted_and_the_first_in_order_is_named(tmp_path: Path) -> None:
    data = pixel_set(save_classes(tmp_path, {"a": 6}))
    for number in (2, 4):
        content = (tmp_path / f"a/{number}.png").read_bytes()
        (tmp_path / f"a/{number}.png").write_bytes(content[:-900])
    with pytest.raises(DataError, match=r"2 files can't be used, the first: .*a/4.png is not a whole image"):
        data.read(torch.tensor([0, 4, 1, 2]), torch.arange(4), 0)
    with pytest.raises(DataError, match=r"^[^:]*a/2.png is not a whole image"):
        data.read(torch.tensor([0, 2]), torch.arange(2), 0)
    assert data.read(torch.tensor([0, 1]), torch.arange(2), 0)[0].shape == (2, 3, 8, 8)


def test_reading_names_the_first_failure_in_the_order_given(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 files .* the first: .*/none-1.png"):
        read_pixels([tmp_path / "none-1.png", tmp_path / "none-2.png"], 8, 3)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> LatentEncoder:
    path = tmp_path_factory.mktemp("vae")
    save_tiny_autoencoder(path)
    return open_encoder(str(path), config=LATENTS)


def test_encoded_images_are_scaled_samples_of_the_posterior(encoder: LatentEncoder, tmp_path: Path) -> None:
    pixels = pixel_set(save_classes(tmp_path, {"a": 3, "b": 3}), side_px=RES)
    data = EncodedSet(pixels=pixels, encoder=encoder, scale=0.5, shift=0.25)
    pick_B, position_B = torch.tensor([4, 0, 4]), torch.tensor([7, 8, 9])
    latents_BCYX, labels_B = data.read(pick_B, position_B, 3)
    pixels_BCYX, _ = pixels.read(pick_B, position_B, 3)
    posterior = encoder.autoencoder.encode(pixels_BCYX).latent_dist
    noise = normal(3, position_B, torch.zeros(3, dtype=torch.int64), (4, 4, 4), Stream.TRAIN_POSTERIOR)
    expected = (posterior.mean + posterior.std * noise - 0.25) * 0.5
    assert torch.allclose(latents_BCYX, expected, atol=1e-5)
    assert posterior.std.min() > 0.1
    assert labels_B.tolist() == [1, 0, 1]
    assert (data.num_images, data.num_classes, data.shape_CYX) == (6, 2, (4, 4, 4))


def test_the_fingerprint_of_encoded_images_knows_the_autoencoder(encoder: LatentEncoder, tmp_path: Path) -> None:
    pixels = pixel_set(save_classes(tmp_path, {"a": 1}), side_px=RES)
    data = EncodedSet(pixels=pixels, encoder=encoder, scale=1.0, shift=0.0)
    assert data.fingerprint not in (pixels.fingerprint, encoder.sha256)
    assert replace(data, encoder=replace(encoder, sha256="0")).fingerprint != data.fingerprint


def test_an_image_that_would_grow_without_bound_is_refused(tmp_path: Path) -> None:
    Image.new("L", (200_000, 1)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match="x.png is too narrow to scale to 256 px: 1 by 200000"):
        read_pixels([tmp_path / "x.png"], 256, 3)
