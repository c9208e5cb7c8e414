"""Measure how fast latents are read in shuffled order from a cold disk, and how much of it is read.

    python docs/scripts/cold_latents.py FOLDER [--shards 80] [--batches 40]

FOLDER is filled with shards of 512 latents of 256 px (32 KiB a row) in LightningDiT's layout unless it holds them.
Before each figure the shards are dropped from the page cache by posix_fadvise. An older checkout: PYTHONPATH=CHECKOUT.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from medcli.data.external_latents import open_external
from medcli.data.latent_set import Content, LatentSet
from medcli.runtime.reporting import Silent
from medcli.training.batches import DataOrder

ROWS, SHAPE_RYX, BATCH, AHEAD = 512, (8, 32, 32), 256, 8


def fill(folder: Path, num_shards: int) -> None:
    """Write shards of random rows."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = torch.randn(ROWS, *SHAPE_RYX, generator=torch.Generator().manual_seed(0))
    for number in range(num_shards):
        file = folder / f"latents-{number:05d}.safetensors"
        if not file.exists():
            save_file({"latents": rows, "labels": torch.arange(ROWS) % 1000}, file)


def drop(folder: Path) -> None:
    """Write the shards to the disk and drop them from the page cache."""
    for file in folder.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def disk_bytes() -> int:
    """Return the bytes this process has read from disks."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes")).split()[1])


def measured(name: str, num_images: int, work: Callable[[], None]) -> None:
    """Time a piece of work and show its rate, processor time and reads, an image."""
    start_s, cpu_s, read = time.perf_counter(), time.process_time(), disk_bytes()
    work()
    wall_s, cpu_s, read = time.perf_counter() - start_s, time.process_time() - cpu_s, disk_bytes() - read
    each = f"{1e6 * cpu_s / num_images:.1f} us CPU and {read / num_images / 1024:.1f} KiB from the disk an image"
    print(f"{name}: {wall_s:.2f} s, {num_images / wall_s:,.0f} images/s, {each}", flush=True)


def read_batches(data: LatentSet, numbers: range, with_noise: bool) -> None:
    """Read batches in the order of training, those to come announced where the checkout can do so."""
    order = DataOrder(data.num_images, seed=0)

    def picks(number: int) -> tuple[torch.Tensor, torch.Tensor]:
        position_B = torch.arange(number * BATCH, (number + 1) * BATCH)
        return order.picks(position_B), position_B

    for number in numbers:
        if hasattr(data, "expect") and number + AHEAD < numbers.stop:
            data.expect(*picks(number + AHEAD), 0)
        if with_noise:
            data.read(*picks(number), 0)
        else:
            data.rows.read(picks(number)[0].tolist(), [False] * BATCH)


def main() -> None:
    """Measure opening, reading of rows, and reading with the noise of the posterior, cold and warm."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int, default=80)
    parser.add_argument("--batches", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    fill(options.folder, options.shards)
    num_images, num_read = options.shards * ROWS, options.batches * BATCH
    sets: list[LatentSet] = []

    def open_set() -> None:
        found = open_external(options.folder, Silent())
        assert found is not None
        sets.append(LatentSet(rows=found.rows, content=Content.MEAN_LOG_VARIANCE, scale=1.0, shift=0.0))

    numbers = range(options.batches)
    for name, with_noise in (("rows", False), ("rows with noise", True)):
        sets.clear()  # pages of a mapping are not dropped
        drop(options.folder)
        measured(f"opening {options.shards} shards", num_images, open_set)
        drop(options.folder)
        for state in ("cold", "warm"):
            measured(f"{name}, {state}", num_read, partial(read_batches, sets[0], numbers, with_noise))


if __name__ == "__main__":
    main()
