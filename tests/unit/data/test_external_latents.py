"""Layouts as the scripts of other projects write them (docs/data.md)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from medcli.data.datasets import open_training_set
from medcli.data.external_latents import LABEL_BYTES, _small, open_external
from medcli.data.latent_origin import latent_origin
from medcli.data.training_set import flip_coins
from medcli.errors import DataError
from medcli.runtime.noise import Stream, normal
from tests.unit.data.tiny_data import LATENTS, Notes, save_classes, save_labels

SCALE = LATENTS.latent_scale
RAW = torch.randn(9, 4, 4, 4, generator=torch.Generator().manual_seed(0)) / SCALE
"""Latents as an autoencoder makes them."""
LABELS = [0, 1, 2, 2, 1, 0, 0, 1, 2]
PICKS, POSITIONS = torch.tensor([8, 0, 4, 4, 7]), torch.arange(36, 41)


def save_fast_dit(root: Path, scale: float = SCALE) -> Path:
    for name in ("imagenet256_features", "imagenet256_labels"):
        (root / name).mkdir(parents=True)
    for number, label in enumerate(LABELS):
        np.save(root / f"imagenet256_features/{number}.npy", (RAW[number : number + 1] * scale).numpy())
        np.save(root / f"imagenet256_labels/{number}.npy", np.array([label]))
    return root


def save_repa(root: Path, std: float = 0.5, scale: float = 1.0) -> Path:
    pairs = []
    for number, label in enumerate(LABELS):
        name = f"00000/img-mean-std-{number:08d}.npy"
        (root / "vae-sd/00000").mkdir(parents=True, exist_ok=True)
        np.save(root / "vae-sd" / name, torch.cat([RAW[number] * scale, torch.full((4, 4, 4), std)]).numpy())
        pairs.append([name, label])
    save_labels(root / "vae-sd/dataset.json", {"labels": pairs})
    return root


def save_lightning(root: Path, scale: float = 1.0, *, stats: bool = True) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for number, rows in enumerate((slice(0, 5), slice(5, 9))):
        tensors = {
            "latents": RAW[rows] * scale,
            "latents_flip": (RAW[rows] * scale).flip(-1).contiguous(),
            "labels": torch.tensor(LABELS[rows]),
        }
        save_file(tensors, root / f"latents_rank00_shard{number:03d}.safetensors")
    if stats:
        torch.save({"mean": torch.zeros(1, 4, 1, 1), "std": torch.full((1, 4, 1, 1), 5.5)}, root / "latents_stats.pt")
    return root


def read(path: Path, scale: float = SCALE, shift: float = 0.0) -> Tensor:
    data = open_training_set(str(path), replace(LATENTS, latent_scale=scale, latent_shift=shift))
    latents_BCYX, labels_B = data.read(PICKS, POSITIONS, 2)
    assert labels_B.tolist() == [LABELS[pick] for pick in PICKS]
    assert (data.num_images, data.num_classes, data.shape_CYX) == (9, 3, (4, 4, 4))
    return latents_BCYX


def test_fast_dit_latents_are_scaled_already(tmp_path: Path) -> None:
    assert torch.equal(read(save_fast_dit(tmp_path)), RAW[PICKS] * SCALE)


def test_another_factor_or_shift_of_the_model_is_put_on_top_of_fast_dits(tmp_path: Path) -> None:
    assert torch.allclose(read(save_fast_dit(tmp_path), 0.25, 0.5), (RAW[PICKS] - 0.5) * 0.25, atol=1e-5)


@pytest.mark.parametrize("inside", [False, True])
def test_repa_moments_are_drawn_and_scaled(tmp_path: Path, inside: bool) -> None:
    latents_BCYX = read(save_repa(tmp_path) / "vae-sd" if inside else save_repa(tmp_path))
    noise = normal(2, POSITIONS, torch.zeros(5, dtype=torch.int64), (4, 4, 4), Stream.TRAIN_POSTERIOR)
    assert torch.allclose(latents_BCYX, (RAW[PICKS] + 0.5 * noise) * SCALE, atol=1e-6)


def test_lightning_latents_are_scaled_and_mirrored_by_coin(tmp_path: Path) -> None:
    latents_BCYX = read(save_lightning(tmp_path))
    coins = flip_coins(POSITIONS, 2).tolist()
    assert 0 < sum(coins) < 5
    for latents_CYX, pick, coin in zip(latents_BCYX, PICKS, coins, strict=True):
        assert torch.equal(latents_CYX, (RAW[pick].flip(-1) if coin else RAW[pick]) * SCALE)


def test_statistics_that_a_model_does_not_use_are_reported(tmp_path: Path) -> None:
    for stats, words in ((True, ["is not applied"]), (False, [])):
        notes = Notes()
        open_training_set(str(save_lightning(tmp_path / str(stats), stats=stats)), LATENTS, reporter=notes)
        assert [word for word in words if any(word in text for text in notes.texts)] == words
        assert len(notes.texts) == len(words)


@pytest.mark.parametrize(
    ("save", "scale", "said"),
    [
        (save_fast_dit, 1.0, "stored without the factor 0.18215"),
        (save_fast_dit, SCALE**2, "stored with the factor 0.18215 already"),
        (save_lightning, SCALE, "stored with the factor 0.18215 already"),
    ],
)
def test_wrong_scaling_is_found_in_every_layout(tmp_path: Path, save: object, scale: float, said: str) -> None:
    save(tmp_path, scale)  # type: ignore[operator]
    with pytest.raises(DataError, match=said):
        read(tmp_path)


def test_scaled_repa_moments_are_found(tmp_path: Path) -> None:
    save_repa(tmp_path, scale=SCALE, std=0.01)
    with pytest.raises(DataError, match="stored with the factor 0.18215 already"):
        read(tmp_path)


def test_log_variances_are_not_taken_for_deviations(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="means and standard deviations"):
        open_external(save_repa(tmp_path, std=-3.0), Notes())


def test_missing_files_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    save_fast_dit(tmp_path / "a")
    for number in (3, 5):
        (tmp_path / f"a/imagenet256_labels/{number}.npy").unlink()
    with pytest.raises(DataError, match=r"2 of the 9 latents .* no label, the first is 3.npy"):
        open_external(tmp_path / "a", Notes())
    save_repa(tmp_path / "b")
    (tmp_path / "b/vae-sd/00000/img-mean-std-00000004.npy").unlink()
    with pytest.raises(DataError, match=r"1 of the 9 files .*/img-mean-std-00000004.npy"):
        open_external(tmp_path / "b", Notes())


@pytest.mark.parametrize("label", [np.array([0.5]), np.array([1, 2]), np.array(["a"]), np.array([-1], np.int32)])
def test_a_label_that_is_no_whole_number_is_named(tmp_path: Path, label: np.ndarray) -> None:
    save_fast_dit(tmp_path)
    np.save(tmp_path / "imagenet256_labels/4.npy", label)
    with pytest.raises(DataError, match=r"imagenet256_labels/4.npy holds .*, expected one whole number"):
        open_external(tmp_path, Notes())


@pytest.mark.parametrize("kind", ["<i8", ">i8", "<i4", "u1"])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_labels_of_any_whole_format_are_read_though_the_others_differ(
    tmp_path: Path, kind: str, shape: tuple[int, ...]
) -> None:
    save_fast_dit(tmp_path)
    for number in (0, 4):
        np.save(tmp_path / f"imagenet256_labels/{number}.npy", np.full(shape, 2 * number, kind))
    found = open_external(tmp_path, Notes())
    assert found is not None
    assert found.rows.labels_N.tolist() == [0, 1, 2, 2, 8, 0, 0, 1, 2]


def test_a_label_cut_short_is_named(tmp_path: Path) -> None:
    save_fast_dit(tmp_path)
    label = tmp_path / "imagenet256_labels/4.npy"
    label.write_bytes(label.read_bytes()[:-1])
    with pytest.raises(DataError, match="4.npy is not a whole .npy file"):
        open_external(tmp_path, Notes())


def test_statistics_are_not_unpickled(tmp_path: Path) -> None:
    save_lightning(tmp_path)
    for broken in ({"std": Bomb()}, {"mean": torch.zeros(1)}, [1]):
        torch.save(broken, tmp_path / "latents_stats.pt")
        with pytest.raises(DataError, match="latents_stats.pt"):
            open_external(tmp_path, Notes())
    (tmp_path / "latents_stats.pt").write_bytes(b"")
    with pytest.raises(DataError, match="latents_stats.pt is empty"):
        open_external(tmp_path, Notes())


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("a file was unpickled",)


def test_reading_many_labels_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medcli.data.external_latents.CHUNK", 4)
    notes = Notes()
    open_external(save_fast_dit(tmp_path), notes)
    assert notes.reports == [(4, 9, "labels"), (8, 9, "labels"), (9, 9, "labels")]


def test_folders_of_images_and_of_checkpoints_are_not_taken_for_latents(tmp_path: Path) -> None:
    save_classes(tmp_path / "a", {"cat_features": 1, "cat_labels": 1})
    save_labels(tmp_path / "b/dataset.json", {"labels": [["a.png", 0]]})
    (tmp_path / "c").mkdir()
    save_file({"weight": torch.zeros(3)}, tmp_path / "c/model.safetensors")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/broken.safetensors").write_bytes(b"x")
    for name in "abcd":
        assert open_external(tmp_path / name, Notes()) is None


def test_what_is_no_regular_file_is_never_opened(tmp_path: Path) -> None:
    fast_dit = save_fast_dit(tmp_path / "f")
    (fast_dit / "imagenet256_labels/0.npy").unlink()
    os.mkfifo(fast_dit / "imagenet256_labels/0.npy")
    with pytest.raises(DataError, match=r"1 of the 9 latents of .* have no label, the first is 0.npy"):
        read(fast_dit)
    (tmp_path / "l").mkdir()
    os.mkfifo(tmp_path / "l/a.safetensors")
    with pytest.raises(DataError, match="no images"):
        read(tmp_path / "l")
    assert latent_origin(str(tmp_path / "l")) is None


def test_a_label_file_of_any_length_is_read_in_part(tmp_path: Path) -> None:
    fast_dit = save_fast_dit(tmp_path)
    np.save(fast_dit / "imagenet256_labels/0.npy", np.zeros(10**5))
    with pytest.raises(DataError, match="expected one whole number"):
        read(fast_dit)
    assert len(_small(fast_dit / "imagenet256_labels/0.npy")) == LABEL_BYTES
