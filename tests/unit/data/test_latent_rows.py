from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from medcli.data.latent_rows import ShardRows, open_files, open_shards
from medcli.data.name_list import NameList
from medcli.data.npz import read_npy
from medcli.errors import DataError

PER_SHARD = (3, 1, 4)
ROWS = torch.randn(8, 2, 3, 5, generator=torch.Generator().manual_seed(0))
MIRRORED = ROWS.flip(-1)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 7, 0])


def save_shards(folder: Path, *, mirrored: bool = True, dtype: torch.dtype = torch.float32) -> list[Path]:
    files, first = [], 0
    for number, count in enumerate(PER_SHARD):
        rows = slice(first, first + count)
        tensors = {"rows": ROWS[rows].to(dtype), "labels": LABELS[rows].clone()}
        if mirrored:
            tensors["mirrored"] = MIRRORED[rows].to(dtype).contiguous()
        files.append(folder / f"{number}.safetensors")
        save_file(tensors, files[-1])
        first += count
    return files


def opened(folder: Path, files: list[Path]) -> ShardRows:
    return open_shards(folder, files, "rows", "mirrored")


def test_rows_of_any_shard_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    shards = opened(tmp_path, save_shards(tmp_path))
    picks = [7, 0, 3, 3, 2, 6, 4]
    flips = [True, False, False, True, True, False, False]
    read = shards.read(picks, flips)
    for row, pick, flip in zip(read, picks, flips, strict=True):
        assert torch.equal(row, (MIRRORED if flip else ROWS)[pick])
    assert shards.labels_N.tolist() == LABELS.tolist()
    assert (shards.shape_RYX, shards.has_flips) == ((2, 3, 5), True)
    assert [shards.place(pick) for pick in (2, 3, 7)] == [
        f"row {row} of {tmp_path}/{number}.safetensors" for row, number in ((2, 0), (0, 1), (3, 2))
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_float_format_is_read_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    shards = opened(tmp_path, save_shards(tmp_path, mirrored=False, dtype=dtype))
    read = shards.read(list(range(8)), [False] * 8)
    assert read.dtype == torch.float32
    assert torch.equal(read, ROWS.to(dtype).float())
    assert not shards.has_flips


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc on this system")
def test_shards_stay_on_disk_until_their_rows_are_read(tmp_path: Path) -> None:
    file = tmp_path / "large.safetensors"
    save_file({"rows": torch.zeros(4096, 8, 32, 32), "labels": torch.zeros(4096, dtype=torch.int64)}, file)
    before = resident_mib()
    handles = len(os.listdir("/proc/self/fd"))
    shards = opened(tmp_path, [file] * 3)
    shards.read([0, 5000, 12_000], [False] * 3)
    assert resident_mib() - before < 30  # of 3 x 128 MiB
    assert len(os.listdir("/proc/self/fd")) == handles


def resident_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    files = save_shards(tmp_path)
    content = files[1].read_bytes()
    for broken in (content[:-1], content[:50], b""):
        files[1].write_bytes(broken)
        with pytest.raises(DataError, match=r"1.safetensors is no whole safetensors file"):
            opened(tmp_path, files)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"labels": LABELS}, "no tensor rows"),
        ({"rows": ROWS}, "no tensor labels"),
        ({"rows": ROWS[:3], "labels": LABELS}, "expected"),
        ({"rows": ROWS[:, :, :2].contiguous(), "labels": LABELS}, "expected"),
        ({"rows": ROWS[:, :, 0].contiguous(), "labels": LABELS}, "expected"),
        ({"rows": ROWS.long(), "labels": LABELS}, "expected floating point"),
        ({"rows": ROWS, "mirrored": MIRRORED[:2].contiguous(), "labels": LABELS}, "mirrored has shape"),
        ({"rows": ROWS, "labels": LABELS}, "1 shards of .* have no mirrored"),
        ({"rows": ROWS, "mirrored": MIRRORED.contiguous(), "labels": LABELS - 3}, "the label -3"),
    ],
)
def test_shards_that_do_not_fit_together_are_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], said: str
) -> None:
    files = [*save_shards(tmp_path), tmp_path / "odd.safetensors"]
    save_file(tensors, files[-1])
    with pytest.raises(DataError, match=said):
        opened(tmp_path, files)


def test_equal_shards_and_only_those_have_equal_fingerprints(tmp_path: Path) -> None:
    files = save_shards(tmp_path)
    first = opened(tmp_path, files).fingerprint
    assert opened(tmp_path, files).fingerprint == first
    assert opened(tmp_path, files[::-1]).fingerprint != first
    for place in (0, 2):
        changed = ROWS[:3].clone()
        changed[place] += 1
        save_file({"rows": changed, "mirrored": MIRRORED[:3].contiguous(), "labels": LABELS[:3].clone()}, files[0])
        assert opened(tmp_path, files).fingerprint != first
    save_file({"rows": ROWS[:3], "mirrored": ROWS[:3].clone(), "labels": LABELS[:3] + 1}, files[0])
    assert opened(tmp_path, files).fingerprint != first


def save_arrays(folder: Path, *arrays: np.ndarray) -> NameList:
    for number, array in enumerate(arrays):
        np.save(folder / f"{number}.npy", array)
    return NameList(f"{number}.npy" for number in range(len(arrays)))


def test_one_file_an_image_is_read_with_or_without_a_batch_axis(tmp_path: Path) -> None:
    names = save_arrays(tmp_path, ROWS[0].numpy(), ROWS[1:2].numpy(), ROWS[2].numpy().astype(np.float16))
    rows = open_files(tmp_path, names, np.array([2, 0, 1]))
    read = rows.read([2, 1, 0], [False] * 3)
    assert torch.equal(read, torch.stack([ROWS[2].half().float(), ROWS[1], ROWS[0]]))
    assert (rows.shape_RYX, rows.has_flips, rows.place(1)) == ((2, 3, 5), False, f"{tmp_path}/1.npy")
    assert open_files(tmp_path, names, np.array([2, 0, 0])).fingerprint != rows.fingerprint
    np.save(tmp_path / "1.npy", ROWS[3:4].numpy())
    assert open_files(tmp_path, names, np.array([2, 0, 1])).fingerprint != rows.fingerprint


def test_files_of_another_shape_or_kind_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    wide, whole = np.zeros((2, 3, 6), np.float32), np.zeros((2, 3, 5), np.int64)
    rows = open_files(tmp_path, save_arrays(tmp_path, ROWS[0].numpy(), wide, whole), np.zeros(3, np.int64))
    with pytest.raises(DataError, match=r"2 files .* the first: .*2.npy holds int64"):
        rows.read([0, 2, 1], [False] * 3)
    with pytest.raises(DataError, match=r"0.npy has shape \(4,\)"):
        open_files(tmp_path, save_arrays(tmp_path, np.zeros(4)), np.zeros(1, np.int64))


def test_pickled_objects_and_broken_arrays_are_never_read(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.npy"
    np.save(bomb, np.array([Bomb()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "many.npy.npz", ROWS.numpy())
    (tmp_path / "many.npy.npz").rename(tmp_path / "many.npy")
    (tmp_path / "short.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "empty.npy").touch()
    said = {"bomb": "pickled objects", "short": "not a whole .npy", "empty": "not a whole .npy", "none": "no such file"}
    for name, wanted in said.items():
        with pytest.raises(DataError, match=wanted):
            read_npy(tmp_path / f"{name}.npy")
    with pytest.raises(DataError, match="is an .npz"):
        read_npy(tmp_path / "many.npy")


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("a file was unpickled",)


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    save_file({"rows": ROWS[:0], "labels": LABELS[:0]}, tmp_path / "0.safetensors")
    with pytest.raises(DataError, match="holds no latents"):
        opened(tmp_path, [tmp_path / "0.safetensors"])
