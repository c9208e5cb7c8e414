"""The manifest of a sample folder, and whether a run may continue it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medcli.data.images import MANIFEST, read_manifest
from medcli.engine.image_records import num_lines
from medcli.engine.sample_folder import ARCHIVE, is_transient
from medcli.errors import ConfigError, DataError, listed
from medcli.runtime import files

FORMAT_VERSION = 1
BYTES_BESIDE_PIXELS = 4096
"""Bytes of an image beyond its pixels: PNG headers, its line, the file rounded up to blocks."""


def check_folder(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Check that a run with these settings may write to a folder.

    Args:
        path: The folder, or where it will be.
        settings: Settings that decide the images.

    Returns:
        The manifest of the run to continue; None if there is none.

    Raises:
        ConfigError: If something else is there, or a run with other settings.
        DataError: If its manifest is damaged.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path} is a file, expected a folder name", hint="choose another name with --output")
    manifest = _read(path)
    if manifest is None:
        if path.is_dir() and not all(is_transient(entry.name) for entry in path.iterdir()):
            raise ConfigError(f"{path} is not empty and holds no samples of medcli", hint="choose another --output")
        return None
    before = manifest["settings"]
    if differing := [name for name in settings if before.get(name) != settings[name]]:
        raise ConfigError(
            f"{path} holds a run with other settings ({listed(differing)})",
            hint="choose another --output, or remove that folder",
        )
    return manifest


def recorded_checkpoints(path: Path) -> object:
    """Return what an existing manifest says of its checkpoints; None without a readable one."""
    try:
        manifest = read_manifest(path)
    except DataError:  # reported by `check_folder`
        return None
    settings = (manifest or {}).get("settings")
    return settings.get("checkpoints") if isinstance(settings, dict) else None


def _read(path: Path) -> dict[str, Any] | None:
    """Read the manifest, if there is one, and check the parts a continued run needs."""
    way_out = "choose another --output, or remove that folder"
    try:
        manifest = read_manifest(path)
    except DataError as err:
        raise DataError(err.message, hint=way_out) from err
    if manifest is None:
        return None
    if wrong := [name for name, is_ours in PARTS.items() if not is_ours(manifest.get(name))]:
        raise DataError(f"{path / MANIFEST} is damaged ({listed(wrong)})", hint=way_out)
    return manifest


def _is_run(value: Any) -> bool:
    if not isinstance(value, dict) or not _is_count(value.get("batch_size")):
        return False
    return value.get("batch_size_asked") is None or _is_count(value["batch_size_asked"])


def _is_session(value: Any) -> bool:
    if not isinstance(value, dict) or type(value.get("images")) is not int:
        return False
    return type(value.get("seconds")) in (int, float) and 0 <= value["seconds"] < math.inf


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


PARTS: Mapping[str, Callable[[Any], bool]] = {
    "num_images": _is_count,
    "settings": lambda value: isinstance(value, dict),
    "run": _is_run,
    "sessions": lambda value: isinstance(value, list) and all(map(_is_session, value)),
}
"""Parts of a manifest a continued run reads, and their checks."""


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write `manifest.json` atomically, making the folder if need be.

    Raises:
        EnvironmentProblem: If the place can't be written to or is full.
    """
    text = json.dumps(manifest, indent=2, sort_keys=True, allow_nan=False) + "\n"
    if not (path / MANIFEST).is_file() or (path / MANIFEST).read_text(encoding="utf-8") != text:
        files.write_text(path / MANIFEST, text, force=True)


def require_image_space(path: Path, num_images: int, side_px: int, *, archive: bool) -> None:
    """Check that the disk has room for the images.

    Args:
        path: The folder, or where it will be. Existing images need no more room.
        num_images: Total images in the folder.
        side_px: Side of an image.
        archive: Whether an archive of all of them is asked for. It is written beside an older one that it replaces.

    Raises:
        EnvironmentProblem: If there is not enough room.
    """
    pixels = side_px * side_px * 3
    num_new = max(0, num_images - num_lines(path))
    has_archive = (path / ARCHIVE).exists()
    writes_archive = num_new > 0 if has_archive else archive
    needed = num_new * (pixels + BYTES_BESIDE_PIXELS) + (num_images * pixels if writes_archive else 0)
    files.require_space(path, needed, f"{num_new} more images")
