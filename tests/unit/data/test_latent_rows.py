from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medcli.data.latent_rows import open_files
from medcli.data.name_list import NameList
from medcli.data.npz import read_npy
from medcli.errors import DataError

ROWS = torch.randn(8, 2, 3, 5, generator=torch.Generator().manual_seed(0))


def save_arrays(folder: Path, *arrays: np.ndarray) -> NameList:
    for number, array in enumerate(arrays):
        np.save(folder / f"{number}.npy", array)
    return NameList(f"{number}.npy" for number in range(len(arrays)))


def test_one_file_an_image_is_read_with_or_without_a_batch_axis(tmp_path: Path) -> None:
    names = save_arrays(tmp_path, ROWS[0].numpy(), ROWS[1:2].numpy(), ROWS[2].numpy().astype(np.float16))
    rows = open_files(tmp_path, names, np.array([2, 0, 1]))
    read = rows.read([2, 1, 0], [False] * 3)
    assert torch.equal(read, torch.stack([ROWS[2].half().float(), ROWS[1], ROWS[0]]))
    rows.expect([1, 1], [False] * 2)
    rows.ahead._threads.shutdown(wait=True)
    assert torch.equal(rows.read([1, 1], [False] * 2), torch.stack([ROWS[1], ROWS[1]]))
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
