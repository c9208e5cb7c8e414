"""Entries cut, join and round as the tensors they stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medcli.checkpoint.tensor_record import (
    Region,
    TensorRecord,
    computed,
    from_bytes,
    row_concat,
    row_slice,
    stored,
    to_bytes,
    zeros,
)
from medcli.errors import CheckpointError

TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def numbers(record: TensorRecord) -> np.ndarray:
    return from_bytes(record.read(), record.dtype, record.shape)


@pytest.fixture
def table(tmp_path: Path) -> tuple[TensorRecord, np.ndarray]:
    values = np.arange(20, dtype=np.float32).reshape(5, 4)
    (tmp_path / "x").write_bytes(b"head" + values.tobytes())
    return stored("x", "F32", (5, 4), tmp_path / "x", 4), values


def test_rows_are_cut_without_reading(table: tuple[TensorRecord, np.ndarray]) -> None:
    record, values = table
    part = row_slice(record, "part", 1, 3)
    assert part.pieces == (Region(record.pieces[0].path, 4 + 16, 32),)  # type: ignore[union-attr]
    np.testing.assert_array_equal(numbers(part), values[1:3])


def test_cuts_go_through_the_joints_of_joined_tensors(table: tuple[TensorRecord, np.ndarray]) -> None:
    record, values = table
    made = computed("m", "F32", (2, 4), lambda: np.full((2, 4), 7.0))
    joined = row_concat("j", [record, made, zeros("z", "F32", (1, 4))])
    expected = np.concatenate([values, np.full((2, 4), 7), np.zeros((1, 4))])
    np.testing.assert_array_equal(numbers(joined), expected)
    for start in range(8):
        for stop in range(start + 1, 9):
            np.testing.assert_array_equal(numbers(row_slice(joined, "p", start, stop)), expected[start:stop])


def test_tensors_that_do_not_match_are_not_joined(table: tuple[TensorRecord, np.ndarray]) -> None:
    record, _ = table
    with pytest.raises(CheckpointError, match=r"F32 \(5, 4\) but z is F16"):
        row_concat("j", [record, zeros("z", "F16", (1, 4))])


@pytest.mark.parametrize("dtype", list(TYPES))
def test_numbers_are_rounded_as_torch_rounds_them(dtype: str) -> None:
    halfway = torch.tensor([1.00390625, 1.01171875, -1.00390625])  # between two bfloat16: to the even one
    values = torch.cat([torch.randn(1000, generator=torch.Generator().manual_seed(0)), halfway, torch.zeros(1)])
    expected = values.to(TYPES[dtype])
    assert to_bytes(values.numpy(), dtype) == expected.view(torch.uint8).numpy().tobytes()
    np.testing.assert_array_equal(from_bytes(to_bytes(values.numpy(), dtype), dtype, (1004,)), expected.float().numpy())


def test_a_file_that_shrinks_while_it_is_read_is_refused(table: tuple[TensorRecord, np.ndarray]) -> None:
    record, _ = table
    path = record.pieces[0].path  # type: ignore[union-attr]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="became shorter"):
        record.read()
