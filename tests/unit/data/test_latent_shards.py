from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import pytest
import torch
from safetensors.torch import save_file

from medcli.data.latent_shards import ROWS_HASHED, SHARDS_HASHED, ShardRows, open_shards
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
    assert len(os.listdir("/proc/self/fd")) == handles + 3
    del shards
    assert len(os.listdir("/proc/self/fd")) == handles


def test_opening_shards_reads_headers_and_labels_and_few_rows(tmp_path: Path, reads: Reads) -> None:
    files = []
    for number in range(40):
        files.append(tmp_path / f"{number:02d}.safetensors")
        save_file({"rows": torch.full((64, 2, 32, 32), float(number)), "labels": torch.arange(64)}, files[-1])
    before = bytes_read()
    shards = opened(tmp_path, files)
    row_bytes, of_rows = 2 * 32 * 32 * 4, reads.num_bytes
    assert of_rows == SHARDS_HASHED * ROWS_HASHED * row_bytes
    assert bytes_read() - before - of_rows < 40 * 20_000  # buffered reads of a header and of labels, not 512 KiB
    reads.num_bytes = reads.num_calls = 0
    picks = list(range(0, 40 * 64, 37))
    assert shards.read(picks, [False] * len(picks))[:, 0, 0, 0].tolist() == [pick // 64 for pick in picks]
    assert (reads.num_calls, reads.num_bytes) == (len(picks), len(picks) * row_bytes)


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


@dataclass
class Reads:
    """Calls of `os.preadv` and what they returned."""

    num_calls: int = 0
    num_bytes: int = 0


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    found, lock, real = Reads(), Lock(), os.preadv

    def counted(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        count = real(descriptor, buffers, offset)
        with lock:
            found.num_calls += 1
            found.num_bytes += count
        return count

    monkeypatch.setattr(os, "preadv", counted)
    return found


def test_expected_rows_are_read_once_and_before_they_are_asked_for(tmp_path: Path, reads: Reads) -> None:
    shards = opened(tmp_path, save_shards(tmp_path))
    reads.num_calls = 0
    shards.expect([5, 0, 5], [False, True, True])
    shards.ahead._threads.shutdown(wait=True)  # nothing can be read from now on
    assert reads.num_calls == 3
    assert torch.equal(shards.read([5, 0, 5], [False, True, True]), torch.stack([ROWS[5], MIRRORED[0], MIRRORED[5]]))
    assert reads.num_calls == 3


@pytest.mark.parametrize("change", ["longer", "shorter", "newer"])
def test_a_shard_that_changes_while_it_is_in_use_is_refused(tmp_path: Path, change: str) -> None:
    files = [*save_shards(tmp_path)] * (SHARDS_HASHED + 1)  # so that not all are open for the fingerprint
    shards = opened(tmp_path, files)
    number = next(number for number, file in enumerate(files) if number not in kept(shards))
    content = files[number].read_bytes()
    files[number].write_bytes({"longer": content + b"0", "shorter": content[:-1], "newer": content}[change])
    os.utime(files[number], ns=(1, 1))
    with pytest.raises(DataError, match=f"{files[number].name} was changed while it was in use"):
        shards.read([shards.starts[number]], [False])


def kept(shards: ShardRows) -> dict[int, int]:
    return shards.ahead._read.__self__._kept  # type: ignore[attr-defined,no-any-return]


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
        ({"rows": ROWS.long(), "labels": LABELS}, "type I64, expected"),
        ({"rows": ROWS.half(), "labels": LABELS}, "type F16, expected F32"),
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


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    save_file({"rows": ROWS[:0], "labels": LABELS[:0]}, tmp_path / "0.safetensors")
    with pytest.raises(DataError, match="holds no latents"):
        opened(tmp_path, [tmp_path / "0.safetensors"])
