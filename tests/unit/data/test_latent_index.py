from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from medcli.data.latent_index import INDEX, LatentIndex, open_store, read_index
from medcli.errors import DataError
from medcli.version import __version__
from tests.unit.data.tiny_data import moments_of, save_store

LABELS = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]


def index_of(folder: Path) -> LatentIndex:
    index = read_index(folder)
    assert index is not None
    return index


def test_an_index_is_read_as_it_was_written(tmp_path: Path) -> None:
    index = index_of(save_store(tmp_path, LABELS))
    index.write(tmp_path)
    assert index_of(tmp_path) == index
    assert (index.num_shards, index.is_complete, index.shape) == (3, True, (4, 4, 4))
    values = json.loads((tmp_path / INDEX).read_text())
    assert (values["format_version"], values["medcli_version"]) == (1, __version__)
    assert list(values) == sorted(values)
    assert read_index(tmp_path / "elsewhere") is None


def test_where_the_images_lay_and_what_came_out_are_no_settings(tmp_path: Path) -> None:
    index = index_of(save_store(tmp_path, LABELS))
    moved = replace(index, source="/elsewhere", autoencoder="/vae", mean=None, std=None)
    assert (moved.settings, moved.identity) == (index.settings, index.identity)
    for name, value in {"flip": False, "resolution_px": 64, "source_fingerprint": "2" * 64, "storage": "fp16"}.items():
        assert replace(index, **{name: value}).identity != index.identity  # type: ignore[arg-type]


def test_a_finished_folder_is_opened_with_its_mirrored_rows(tmp_path: Path) -> None:
    rows = open_store(tmp_path, index_of(save_store(tmp_path, LABELS)))
    assert (rows.labels_N.tolist(), rows.shape_RYX, rows.has_flips) == (LABELS, (8, 4, 4), True)
    expected = torch.stack([moments_of(10)[9], moments_of(10, seed=1)[4]])
    assert torch.equal(rows.read([9, 4], [False, True]), expected)
    assert not open_store(tmp_path / "b", index_of(save_store(tmp_path / "b", LABELS, flip=False))).has_flips


def test_an_unfinished_folder_says_what_is_missing(tmp_path: Path) -> None:
    index = index_of(save_store(tmp_path, LABELS))
    with pytest.raises(DataError, match="not finished: 3 of 3 shards"):
        open_store(tmp_path, replace(index, mean=None, std=None))
    index.shard_path(tmp_path, 1).unlink()
    with pytest.raises(DataError, match="not finished: 2 of 3 shards") as caught:
        open_store(tmp_path, index)
    assert "again" in (caught.value.hint or "")


def test_shards_of_different_runs_are_refused(tmp_path: Path) -> None:
    index = index_of(save_store(tmp_path, LABELS))
    last = index.shard_path(tmp_path, index.num_shards - 1)
    save_file(load_file(last), last, {"medcli": json.dumps({"identity": "of another run"})})
    with pytest.raises(DataError, match=f"{last.name} and .* are of different runs"):
        open_store(tmp_path, index)


@pytest.mark.parametrize("flip", [True, False])
def test_shards_that_are_not_what_the_index_says_are_refused(tmp_path: Path, flip: bool) -> None:
    index = index_of(save_store(tmp_path, LABELS, flip=flip))
    for wrong in (replace(index, num_images=9), replace(index, shape=(4, 4, 5)), replace(index, flip=not flip)):
        with pytest.raises(DataError, match="are not what its latents.json says"):
            open_store(tmp_path, wrong)
    save_file({"moments": torch.zeros(2, 8, 2, 2), "labels": torch.zeros(2)}, index.shard_path(tmp_path, 2))
    with pytest.raises(DataError, match="latents-00002.safetensors"):
        open_store(tmp_path, index)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:50],
        lambda text: "[]",
        lambda text: text.replace('"num_images"', '"images"'),
        lambda text: text.replace('"num_images": 10', '"num_images": 0'),
        lambda text: text.replace('"num_images": 10', '"num_images": "10"'),
        lambda text: text.replace('"format_version": 1', '"format_version": 2'),
        lambda text: text.replace('"shape"', '"form"'),
        lambda text: text.replace('"mean"', '"meanx"'),
    ],
)
def test_a_damaged_index_is_refused(tmp_path: Path, change: object) -> None:
    save_store(tmp_path, LABELS)
    text = (tmp_path / INDEX).read_text()
    (tmp_path / INDEX).write_text(change(text))  # type: ignore[operator]
    with pytest.raises(DataError, match=INDEX):
        read_index(tmp_path)
