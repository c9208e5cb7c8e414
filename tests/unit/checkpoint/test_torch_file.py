"""Torch files are read without torch and without running what is in them."""

from __future__ import annotations

import argparse
import collections
import io
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from medcli.checkpoint.pickle_values import TensorRef
from medcli.checkpoint.tensor_record import from_bytes
from medcli.checkpoint.torch_file import TorchFile, read_legacy, read_zip
from medcli.checkpoint.training_args import training_args
from medcli.checkpoint.unpickle import safe_load
from medcli.errors import CheckpointError

FORMATS = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


def written(path: Path, content: Any, *, legacy: bool = False) -> TorchFile:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return (read_legacy if legacy else read_zip)(path)


def values_of(file: TorchFile, name: str) -> torch.Tensor:
    record = file.record(name, file.content[name])
    return torch.from_numpy(from_bytes(record.read(), record.dtype, record.shape).copy())


@FORMATS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_tensors_have_the_bytes_torch_wrote(tmp_path: Path, dtype: torch.dtype, legacy: bool) -> None:
    state = {"a": torch.randn(3, 5).to(dtype), "b": torch.nn.Parameter(torch.randn(7).to(dtype)), "c": torch.ones(())}
    file = written(tmp_path / "x.pt", state, legacy=legacy)
    for name, tensor in state.items():
        assert torch.equal(values_of(file, name), tensor.detach().to(values_of(file, name).dtype))


@FORMATS
def test_views_of_one_storage_are_laid_out_row_by_row(tmp_path: Path, legacy: bool) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    state = {"whole": base, "turned": base.T, "part": base[1:3, 2:5], "row": base[2]}
    file = written(tmp_path / "x.pt", state, legacy=legacy)
    for name, tensor in state.items():
        assert torch.equal(values_of(file, name), tensor)


@FORMATS
def test_training_settings_come_along_as_plain_values(tmp_path: Path, legacy: bool) -> None:
    settings = argparse.Namespace(path_type="Linear", lr=1e-4, sizes=[1, 2])
    file = written(
        tmp_path / "x.pt", {"args": settings, "model": collections.OrderedDict(a=torch.ones(2))}, legacy=legacy
    )
    assert training_args(file.content) == {"path_type": "Linear", "lr": 1e-4}
    assert isinstance(file.content["model"]["a"], TensorRef)


def test_a_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "x.pt", {"a": torch.ones(4)})
    ref = file.content["a"]
    for wrong in (
        TensorRef(ref.storage, 1, (4,), (1,)),
        TensorRef(ref.storage, 0, (2, 3), (3, 1)),
        TensorRef(ref.storage, 0, (10**12,), (0,)),
    ):
        with pytest.raises(CheckpointError, match="reaches beyond"):
            file.record("a", wrong)


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9, 0.999])
@FORMATS
def test_a_truncated_file_is_refused(tmp_path: Path, cut: float, legacy: bool) -> None:
    path = tmp_path / "x.pt"
    written(path, {"a": torch.randn(1000), "b": torch.randn(1000)}, legacy=legacy)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * cut)])
    with pytest.raises(CheckpointError, match=r"truncated|damaged|cut short"):
        (read_legacy if legacy else read_zip)(path)


def test_a_flipped_byte_anywhere_never_escapes_the_error_type(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    written(path, {"a": torch.randn(4, 4), "b": torch.ones(3)})
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            file = read_zip(path)
            for name, ref in file.content.items():
                file.record(name, ref).read()
        except (CheckpointError, AttributeError):  # AttributeError: the content is no longer a dictionary of tensors
            pass


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(1000)}, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "y.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match="compressed"):
        read_zip(tmp_path / "y.pt")


def test_a_zip_of_something_else_is_named_so(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("holiday.jpg", b"...")
    with pytest.raises(CheckpointError, match="not a torch checkpoint"):
        read_zip(tmp_path / "x.pt")


class Evil:
    """Pickles to a call of a function with an effect one can see."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@FORMATS
def test_a_pickle_that_names_a_function_is_refused_before_anything_runs(tmp_path: Path, legacy: bool) -> None:
    mark = tmp_path / "ran"
    torch.save(
        {"w": torch.ones(2), "x": Evil(Path.touch, mark), "y": Evil(subprocess.call, ["touch", str(mark)])},
        tmp_path / "x.pt",
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(CheckpointError, match=r"wants to run .*refused"):
        (read_legacy if legacy else read_zip)(tmp_path / "x.pt")
    assert not mark.exists()


@pytest.mark.parametrize(
    "value",
    [
        Evil(eval, "1"),
        Evil(getattr, 1, "real"),
        Evil(exec, "x = 1"),
        Evil(__import__, "os"),
        sys.exit,
        io.BytesIO(),
    ],
    ids=["eval", "getattr", "exec", "import", "exit", "bytesio"],
)
def test_names_outside_the_list_are_refused(value: Any) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(CheckpointError, match="wants to run"):
            safe_load(io.BytesIO(pickle.dumps(value, protocol=protocol)), "x.pt")


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x02", b"\x80\x02}", b"\x80\x02q\xff.", b"\x80\x02" + b"(" * 99])
def test_a_damaged_pickle_is_a_checkpoint_error(data: bytes) -> None:
    with pytest.raises(CheckpointError, match="damaged pickle"):
        safe_load(io.BytesIO(data), "x.pt")


def test_a_plain_pickle_is_named_so(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="plain pickle"):
        read_legacy(tmp_path / "x.pkl")


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "x.pt")
    code = (
        "import sys; from pathlib import Path; from medcli.checkpoint.torch_file import read_zip;"
        f"read_zip(Path({str(tmp_path / 'x.pt')!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
