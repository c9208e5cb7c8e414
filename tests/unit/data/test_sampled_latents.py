from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medcli.data.datasets import open_training_set
from medcli.data.sampled_latents import INDEX, SampledLatents, find_sampled, read_sampled, row_name
from medcli.errors import ConfigError, DataError
from tests.unit.data.tiny_data import LATENTS, PIXELS


def begun(samples: Path, config=PIXELS, *, is_asked=True, has_images=False) -> SampledLatents:
    found = SampledLatents.beside(samples, config, is_asked=is_asked, has_images=has_images)
    assert found is not None
    return found


def save_sampled(samples: Path, config=PIXELS) -> torch.Tensor:
    """Write three rows with the labels 1, 0, 1; returns them, (N, C, Y, X)."""
    rows = torch.randn(3, config.in_channels, config.latent_size, config.latent_size)
    writer = begun(samples, config)
    for index, row in enumerate(rows):
        writer.add(index, row)
    writer.complete(((2, 1), (0, 1), (1, 0)), ())
    return rows


@pytest.mark.parametrize("config", [PIXELS, LATENTS])
def test_rows_come_back_as_the_model_made_them(tmp_path: Path, config) -> None:
    rows = save_sampled(tmp_path, config)
    for named in (tmp_path, tmp_path / "latents"):
        data = open_training_set(str(named), config)
        read, labels = data.read(torch.tensor([2, 0, 1]), torch.arange(3), 0)
        assert torch.equal(read, rows[[2, 0, 1]])
        assert labels.tolist() == [1, 1, 0]


def test_a_model_of_another_space_is_refused(tmp_path: Path) -> None:
    save_sampled(tmp_path / "p")
    with pytest.raises(DataError, match="pixels of a model, this one takes latents"):
        open_training_set(str(tmp_path / "p"), LATENTS)
    save_sampled(tmp_path / "l", LATENTS)
    with pytest.raises(DataError, match="latents of a model, this one takes pixels"):
        open_training_set(str(tmp_path / "l"), PIXELS)
    with pytest.raises(DataError, match="autoencoder of scale"):
        open_training_set(str(tmp_path / "l"), replace(LATENTS, latent_scale=0.5))


def test_a_row_is_held_once_it_is_whole(tmp_path: Path) -> None:
    writer = begun(tmp_path)
    assert not writer.holds(0)
    writer.add(0, torch.zeros(PIXELS.in_channels, PIXELS.latent_size, PIXELS.latent_size))
    assert writer.holds(0)
    file = writer.path / row_name(0)
    for cut in (200, 1):
        file.write_bytes(file.read_bytes()[:-cut])
        assert not writer.holds(0)
        writer.add(0, torch.zeros(PIXELS.in_channels, PIXELS.latent_size, PIXELS.latent_size))


def test_images_without_latents_are_not_completed_in_silence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="latents were not kept"):
        SampledLatents.beside(tmp_path, PIXELS, is_asked=True, has_images=True)
    assert SampledLatents.beside(tmp_path, PIXELS, is_asked=False, has_images=True) is None
    save_sampled(tmp_path)
    assert begun(tmp_path, is_asked=False, has_images=True)


def test_damage_is_named(tmp_path: Path) -> None:
    save_sampled(tmp_path)
    folder = find_sampled(tmp_path)
    assert folder is not None
    values = json.loads((folder / INDEX).read_text())
    for broken, said in (
        ("{", "is damaged"),
        (json.dumps({**values, "format_version": 9}), "version 9"),
        (json.dumps({**values, "labels": [1]}), "3 images, 1 labels"),
        (json.dumps({**values, "images": [], "labels": []}), "holds no latents"),
        (json.dumps({**values, "shape": [1, 2, 2]}), "have shape"),
        (json.dumps({**values, "labels": [1, -1, 0]}), "labels"),
    ):
        (folder / INDEX).write_text(broken)
        with pytest.raises(DataError, match=said):
            read_sampled(folder)
    (folder / INDEX).write_text(json.dumps(values))
    (folder / row_name(1)).unlink()
    with pytest.raises(DataError, match="1 of the 3 latents"):
        read_sampled(folder)
