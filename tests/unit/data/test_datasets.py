from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medcli.data.datasets import open_training_set
from medcli.data.image_set import EncodedSet, PixelSet
from medcli.data.latent_set import LatentSet
from medcli.errors import ConfigError, DataError, EnvironmentProblem
from medcli.runtime.noise import Stream, normal
from tests.unit.data.test_autoencoder import save_tiny_autoencoder
from tests.unit.data.test_external_latents import save_lightning
from tests.unit.data.tiny_data import LATENTS, PIXELS, RES, Notes, moments_of, save_classes, save_labels, save_store

DIGITS = replace(PIXELS, in_channels=1, num_classes=10)


def test_digits_are_opened_by_name_for_a_model_of_their_pixels() -> None:
    assert open_training_set("digits", DIGITS).num_images == 1797
    for wrong, said in (
        (replace(DIGITS, latent_size=16), r"shape \(1, 8, 8\), the model takes \(1, 16, 16\)"),
        (replace(DIGITS, in_channels=3), r"the model takes \(3, 8, 8\)"),
        (replace(DIGITS, num_classes=9), "digits has 10 classes, the model 9"),
        (LATENTS, "the digits are pixels"),
    ):
        with pytest.raises(DataError, match=said) as caught:
            open_training_set("digits", wrong)
        assert caught.value.hint


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such data set: digit") as caught:
        open_training_set("digit", DIGITS)
    assert "digits" in (caught.value.hint or "")


def test_folders_and_files_of_labels_are_pixels_for_a_model_of_pixels(tmp_path: Path) -> None:
    save_classes(tmp_path, {"a": 2, "b": 1})
    data = open_training_set(str(tmp_path), PIXELS)
    assert isinstance(data, PixelSet)
    assert (data.num_images, data.shape_CYX, data.flip) == (3, (3, 8, 8), True)
    labels = save_labels(tmp_path / "labels.csv", "a/1.png,2\n")
    data = open_training_set(str(labels), replace(PIXELS, in_channels=1), flip=False)
    assert isinstance(data, PixelSet)
    assert (data.num_images, data.num_classes, data.shape_CYX, data.flip) == (1, 3, (1, 8, 8), False)
    with pytest.raises(DataError, match="has 3 classes, the model 2") as caught:
        open_training_set(str(labels), replace(PIXELS, num_classes=2))
    assert caught.value.hint == "pass --num-classes 3"
    with pytest.raises(ConfigError, match="2 pixel channels"):
        open_training_set(str(labels), replace(PIXELS, in_channels=2))


def test_images_are_encoded_on_the_way_for_a_model_of_latents_and_the_better_way_is_said(tmp_path: Path) -> None:
    save_classes(tmp_path / "photos", {"a": 2, "b": 1})
    save_tiny_autoencoder(tmp_path / "vae")
    notes = Notes()
    data = open_training_set(str(tmp_path / "photos"), LATENTS, autoencoder=str(tmp_path / "vae"), reporter=notes)
    assert isinstance(data, EncodedSet)
    assert (data.shape_CYX, data.scale, data.pixels.side_px) == ((4, 4, 4), LATENTS.latent_scale, RES)
    assert notes.texts[0].endswith(f"medcli latents {tmp_path}/photos --res {RES} --vae {tmp_path}/vae")
    with pytest.raises(ConfigError, match="4 channels at stride 8"):
        open_training_set(str(tmp_path / "photos"), replace(LATENTS, in_channels=8), autoencoder=str(tmp_path / "vae"))
    with pytest.raises(EnvironmentProblem, match="never downloads"):
        open_training_set(str(tmp_path / "photos"), LATENTS, autoencoder="no/such-autoencoder")


def test_a_folder_of_latents_is_read_with_the_models_scale(tmp_path: Path) -> None:
    save_store(tmp_path, [0, 1, 2, 1, 0], shift=0.5)
    data = open_training_set(str(tmp_path), replace(LATENTS, latent_shift=0.5), flip=False)
    assert isinstance(data, LatentSet)
    mean_BCYX, log_variance_BCYX = moments_of(5)[[4, 2]].chunk(2, dim=1)
    latents_BCYX, labels_B = data.read(torch.tensor([4, 2]), torch.tensor([8, 9]), 1)
    drawn_BCYX = (latents_BCYX / LATENTS.latent_scale + 0.5 - mean_BCYX) / torch.exp(log_variance_BCYX / 2)
    noise_BCYX = normal(1, torch.tensor([8, 9]), torch.zeros(2, dtype=torch.int64), (4, 4, 4), Stream.TRAIN_POSTERIOR)
    assert torch.allclose(drawn_BCYX, noise_BCYX, atol=1e-4)
    assert labels_B.tolist() == [0, 2]


def test_latents_that_do_not_fit_the_model_are_refused(tmp_path: Path) -> None:
    save_store(tmp_path / "own", [0, 1, 2, 1, 0])
    save_lightning(tmp_path / "foreign")
    for name in ("own", "foreign"):
        for wrong, said in (
            (replace(LATENTS, latent_size=8), r"shape \(4, 4, 4\), the model takes \(4, 8, 8\)"),
            (replace(LATENTS, in_channels=8), r"shape \(4, 4, 4\), the model takes \(8, 4, 4\)"),
            (replace(LATENTS, num_classes=2), "3 classes, the model 2"),
            (PIXELS, "holds latents, the model takes pixels"),
        ):
            with pytest.raises(DataError, match=said) as caught:
                open_training_set(str(tmp_path / name), wrong)
            assert caught.value.hint


def test_the_way_to_another_resolution_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_training_set(str(save_store(tmp_path, [0, 1])), replace(LATENTS, latent_size=8))
    assert caught.value.hint == "pass --res 32, or use data of 64 px"


def test_latents_of_an_autoencoder_with_another_scale_are_refused(tmp_path: Path) -> None:
    save_store(tmp_path, [0, 1], scale=0.13025)
    with pytest.raises(DataError, match=r"scale 0.13025 and shift 0, the model's latents have 0.18215 and 0") as caught:
        open_training_set(str(tmp_path), LATENTS)
    assert "--vae" in (caught.value.hint or "")


def test_an_unfinished_folder_of_latents_is_refused(tmp_path: Path) -> None:
    save_store(tmp_path, [0, 1], mean=None, std=None)
    with pytest.raises(DataError, match="not finished"):
        open_training_set(str(tmp_path), LATENTS)
