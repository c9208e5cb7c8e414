"""safetensors headers are read with suspicion and written in one way only."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from medcli.checkpoint.safetensors_file import read_safetensors
from medcli.checkpoint.tensor_record import from_bytes
from medcli.checkpoint.writer import record_of, write_safetensors
from medcli.errors import CheckpointError

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def raw_file(path: Path, header: Any, data: bytes = bytes(16)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.mark.parametrize("dtype", FLOATS)
def test_tensors_have_the_bytes_the_library_wrote(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"b": torch.randn(3, 4).to(dtype), "a": torch.randn(5).to(dtype)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"k": "v"})
    records, metadata = read_safetensors(tmp_path / "x.safetensors")
    assert metadata == {"k": "v"}
    for name, tensor in tensors.items():
        values = from_bytes(records[name].read(), records[name].dtype, records[name].shape)
        assert torch.equal(torch.from_numpy(values.copy()), tensor.to(torch.from_numpy(values.copy()).dtype))


def test_the_library_reads_what_we_write_mixed_types_included(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.randn(3, i + 1).to(dtype) for i, dtype in enumerate(reversed(FLOATS))}
    path = tmp_path / "x.safetensors"
    write_safetensors(path, [record_of(n, t) for n, t in tensors.items()], {"medcli": "{}"}, source="x")
    loaded = load_file(path)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"medcli": "{}"}


def test_every_tensor_is_aligned_to_its_element(tmp_path: Path) -> None:
    tensors = {
        f"t{i}": torch.randn(3).to(dtype) for i, dtype in enumerate([torch.float16, torch.float64, torch.float32])
    }
    path = tmp_path / "x.safetensors"
    write_safetensors(path, [record_of(n, t) for n, t in tensors.items()], {}, source="x")
    for name, record in read_safetensors(path)[0].items():
        assert record.pieces[0].offset % tensors[name].element_size() == 0  # type: ignore[union-attr]


GOOD = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        ([1], "not a table"),
        ({"__metadata__": 3}, "metadata"),
        ({"a": {**GOOD, "data_offsets": [0, 32], "shape": [8]}}, "cut short"),
        ({"a": {**GOOD, "shape": [5]}}, "16 bytes"),
        ({"a": {**GOOD, "data_offsets": [16, 0]}}, "bytes"),
        ({"a": {**GOOD, "data_offsets": [-16, 0]}}, "unknown way"),
        ({"a": {**GOOD, "shape": [-2, -2]}}, "unknown way"),
        ({"a": {**GOOD, "shape": [4.0]}}, "unknown way"),
        ({"a": {**GOOD, "shape": "4"}}, "unknown way"),
        ({"a": {"dtype": "F32"}}, "unknown way"),
        ({"a": 1}, "unknown way"),
        ({"a": {**GOOD, "dtype": "F8_E4M3"}}, "F8_E4M3"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_safetensors(raw_file(tmp_path / "x.safetensors", header))


@pytest.mark.parametrize("length", [0, 5, 8, 50])
def test_a_file_cut_in_its_header_is_refused(tmp_path: Path, length: int) -> None:
    path = raw_file(tmp_path / "x.safetensors", {"a": GOOD})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="header is not all there"):
        read_safetensors(path)


@pytest.mark.parametrize("missing", [1, 4, 15])
def test_a_file_cut_by_a_few_bytes_is_refused(tmp_path: Path, missing: int) -> None:
    tensors = {"a": torch.randn(4), "b": torch.randn(4)}
    save_file(tensors, tmp_path / "x.safetensors")
    whole = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(whole[:-missing])
    with pytest.raises(CheckpointError, match=f"cut short|{missing} bytes"):
        read_safetensors(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes(whole)
    assert read_safetensors(tmp_path / "x.safetensors")[0].keys() == tensors.keys()


def test_a_header_of_absurd_length_is_refused_without_reading_it(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(CheckpointError, match="header is not all there"):
        read_safetensors(tmp_path / "x.safetensors")
