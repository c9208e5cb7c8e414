"""What a sample folder is for: the settings that decide its images, and whether a run may add to it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcli.data.images import MANIFEST, read_manifest
from medcli.engine.folder import is_passing
from medcli.errors import ConfigError, EnvironmentProblem, listed
from medcli.runtime.files import write_text

FORMAT_VERSION = 1
BYTES_BESIDE_PIXELS = 4096
"""Room an image takes beyond its pixels: PNG headers, its line, a rounded-up file."""


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
        if path.is_dir() and not all(is_passing(entry.name) for entry in path.iterdir()):
            raise ConfigError(f"{path} is not empty and holds no samples of medcli", hint="choose another --output")
        return None
    before = manifest.get("settings", {})
    if differing := [name for name in settings if before.get(name) != settings[name]]:
        raise ConfigError(
            f"{path} holds a run with other settings ({listed(differing)})",
            hint="choose another --output, or remove that folder",
        )
    return manifest


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
