"""A folder of samples: what it was made with, what is finished, and how to add to it without ever leaving it broken.

    000000.png ...   an image under its number
    images.jsonl     one line an image, appended once its picture is in place
    manifest.json    everything that decides what the images look like, and the totals of the finished run

An image is finished when its line and its picture are there. Both appear whole, so a run may be killed at any moment.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from medcli.data.images import MANIFEST, read_manifest
from medcli.engine.pictures import grid_capacity, grid_columns, grid_of, read_png, write_npz, write_png
from medcli.errors import ConfigError, EnvironmentProblem, listed
from medcli.runtime.files import write_text

RECORDS = "images.jsonl"
GRID = "grid.png"
ARCHIVE = "samples.npz"
FORMAT_VERSION = 1
BYTES_BESIDE_PIXELS = 4096
"""Room an image takes beyond its pixels: PNG headers, its line, a rounded-up file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A line of `images.jsonl`."""

    index: int
    label: int
    file: str
    switch_steps: tuple[int, ...]
    gmacs: float

    def to_line(self) -> str:
        """One JSON object and a line end."""
        return json.dumps({**asdict(self), "switch_steps": list(self.switch_steps)}) + "\n"

    @classmethod
    def of_line(cls, line: str) -> Record | None:
        """Read a line back; None if it is torn or not ours."""
        try:
            values = json.loads(line)
            return cls(**{**values, "switch_steps": tuple(values["switch_steps"])})
        except (ValueError, TypeError, KeyError):
            return None


def file_name(index: int) -> str:
    """Name of an image's file (reference-facts 7)."""
    return f"{index:06d}.png"


class SampleFolder:
    """An open sample folder. Use as a context manager.

    Args:
        path: The folder.
        records: Finished images by number.
    """

    def __init__(self, path: Path, records: dict[int, Record]) -> None:
        self.path = path
        self.records = records
        # One system call a line: lines of several writers never mix, and a killed one leaves at most a torn last line.
        self._lines = os.open(path / RECORDS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def __enter__(self) -> SampleFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lines)

    def add(self, record: Record, pixels_YXC: npt.NDArray[np.uint8]) -> None:
        """Store a finished image: the picture first, then its line."""
        write_png(self.path / record.file, pixels_YXC)
        os.write(self._lines, record.to_line().encode())
        self.records[record.index] = record

    def ordered(self) -> list[Record]:
        """Finished images by number."""
        return [self.records[index] for index in sorted(self.records)]

    def write_grid(self, num_classes: int, side_px: int) -> None:
        """Make `grid.png` of the first images."""
        shown = self.ordered()[: grid_capacity(side_px)]
        columns = grid_columns(len(shown), num_classes)
        write_png(self.path / GRID, grid_of([read_png(self.path / record.file) for record in shown], columns))

    def write_archive(self, side_px: int) -> None:
        """Make `samples.npz` of all images."""
        write_npz(self.path / ARCHIVE, [self.path / record.file for record in self.ordered()], side_px)


def check_folder(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Make sure that a run with these settings may write here.

    Args:
        path: The folder, or where it will be.
        settings: All that decides what the images look like.

    Returns:
        The manifest of the run to go on with; None if there is none.

    Raises:
        ConfigError: If something else is there, or a run with other settings.
        DataError: If its manifest is damaged.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path} is a file, expected a folder name", hint="choose another name with --output")
    manifest = read_manifest(path)
    if manifest is None:
        if path.is_dir() and not all(_is_temporary(entry.name) for entry in path.iterdir()):
            raise ConfigError(f"{path} is not empty and holds no samples of medcli", hint="choose another --output")
        return None
    before = manifest.get("settings", {})
    if differing := [name for name in settings if before.get(name) != settings[name]]:
        raise ConfigError(
            f"{path} holds a run with other settings ({listed(differing)})",
            hint="choose another --output, or remove that folder",
        )
    return manifest


def _is_temporary(name: str) -> bool:
    """Whether a killed run left this half-written file (see `medcli.runtime.files`)."""
    return name.startswith(".") and ".tmp-" in name


def open_folder(path: Path) -> SampleFolder:
    """Open a folder for adding images, mending what an interruption left.

    Raises:
        EnvironmentProblem: If it can't be written to.
    """
    names = {entry.name for entry in os.scandir(path)}
    for name in filter(_is_temporary, names):
        with suppress(FileNotFoundError):
            (path / name).unlink()
    lines = (path / RECORDS).read_text(encoding="utf-8").splitlines(keepends=True) if RECORDS in names else []
    found = [record for record in map(Record.of_line, lines) if record and record.file in names]
    records = {record.index: record for record in found}
    if len(records) != len(lines) or not all(line.endswith("\n") for line in lines):
        # A torn line, or a line whose picture is gone: what is left is a file of good lines.
        write_text(path / RECORDS, "".join(record.to_line() for record in records.values()), force=True)
    return SampleFolder(path, records)


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write `manifest.json`, whole, making the folder if need be.

    Raises:
        EnvironmentProblem: If the place can't be written to or is full.
    """
    text = json.dumps(manifest, indent=2, sort_keys=True, allow_nan=False) + "\n"
    if not (path / MANIFEST).is_file() or (path / MANIFEST).read_text(encoding="utf-8") != text:
        write_text(path / MANIFEST, text, force=True)


def require_space(path: Path, num_images: int, side_px: int, *, archive: bool) -> None:
    """Refuse to start what the disk can't hold.

    Args:
        path: The folder, or where it will be.
        num_images: Images still to be made.
        side_px: Side of an image.
        archive: Whether they will be gathered into one more file.

    Raises:
        EnvironmentProblem: If there is not enough room.
    """
    pixels = side_px * side_px * 3
    needed = num_images * ((pixels + BYTES_BESIDE_PIXELS) + (pixels if archive else 0))
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise EnvironmentProblem(
            f"{num_images} images need about {_size(needed)}, {there} has {_size(free)} free",
            hint="free some space, or choose another disk with --output",
        )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def mean_switch_steps(records: Iterable[Record], num_moves: int) -> list[float | None]:
    """Mean step of each move along the ladder, over the images that made it; None where none did."""
    steps: list[list[int]] = [[] for _ in range(num_moves)]
    for record in records:
        for move, step in enumerate(record.switch_steps):
            steps[move].append(step)
    return [sum(made) / len(made) if made else None for made in steps]
