"""The manifest of a sample folder, and whether a run may continue it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcli.data.images import MANIFEST, read_manifest
from medcli.engine.image_records import MAX_INDEX, Record, num_lines, read_records
from medcli.engine.sample_folder import ARCHIVE, is_transient
from medcli.engine.sessions import Session
from medcli.errors import ConfigError, DataError, listed
from medcli.runtime import files
from medcli.runtime.json_records import InvalidJson, as_record
from medcli.settings.declare import settings_of
from medcli.settings.records import IMAGE_VALUES
from medcli.settings.sampling import SampleRequest

FORMAT_VERSION = 1
BYTES_BESIDE_PIXELS = 4096
"""Bytes of an image beyond its pixels: PNG headers, its line, the file rounded up to blocks."""


def check_folder(
    path: Path, settings: Mapping[str, Any], is_possible: Callable[[Record], bool] = lambda _record: False
) -> dict[str, Any] | None:
    """Check that a run with these settings may write to a folder.

    A folder whose manifest is lost or damaged may be continued if its lines are those of such a run: the manifest is
    written again then.

    Args:
        path: The folder, or where it will be.
        settings: Settings that decide the images.
        is_possible: Returns False for a line that a run with these settings can't have written.

    Returns:
        The manifest of the run to continue; None if there is none.

    Raises:
        ConfigError: If something else is there, or a run with other settings.
        DataError: If its manifest is damaged.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path} is a file, expected a folder name", hint="choose another name with --output")
    try:
        manifest = read_checked(path)
    except DataError:
        if _has_lines_of(path, is_possible):
            return None
        raise
    if manifest is None:
        is_free = not path.is_dir() or all(is_transient(entry.name) for entry in path.iterdir())
        if not is_free and not _has_lines_of(path, is_possible):
            raise ConfigError(f"{path} is not empty and holds no samples of medcli", hint="choose another --output")
        return None
    before = manifest["settings"]
    # An autoencoder is compared by content, and by name with runs of older versions, which recorded no more.
    free = "autoencoder" if before.get("autoencoder_id") else "autoencoder_id"
    # A plan is recorded only where one was followed.
    if differing := [
        name for name in {**settings, **before} if name != free and before.get(name) != settings.get(name)
    ]:
        raise ConfigError(
            f"{path} holds a run with other settings ({listed(_flags_of(before, settings) or differing)})",
            hint="choose another --output, or remove that folder",
        )
    return manifest


def _flags_of(before: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Return the flags whose values differ; none if only contents of files do."""
    declared = settings_of(SampleRequest)
    try:
        return [declared[key].flag for key, read in IMAGE_VALUES.items() if read(before) != read(settings)]
    except (KeyError, TypeError, AttributeError):  # a record of an earlier version
        return []


def _has_lines_of(path: Path, is_possible: Callable[[Record], bool]) -> bool:
    """Return True if there are valid lines, and a run with these settings can have written all of them."""
    records = [record for record in read_records(path) if record]
    return bool(records) and all(map(is_possible, records))


def recorded_checkpoints(path: Path) -> object:
    """Return what an existing manifest says of its checkpoints; None without a readable one."""
    try:
        manifest = read_manifest(path)
    except DataError:  # reported by `check_folder`
        return None
    settings = (manifest or {}).get("settings")
    return settings.get("checkpoints") if isinstance(settings, dict) else None


def read_checked(path: Path) -> dict[str, Any] | None:
    """Read the manifest, if there is one, and check the parts a continued run needs.

    Raises:
        DataError: If it is damaged.
    """
    way_out = "choose another --output, or remove that folder"
    try:
        manifest = read_manifest(path)
        if manifest is not None:
            as_record(_Manifest, manifest, ignore_unknown=True)
    except DataError as err:
        raise DataError(err.message, hint=way_out) from err
    except InvalidJson as err:
        raise DataError(f"{path / MANIFEST} is damaged: {err}", hint=way_out) from err
    return manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """Part of a manifest: how the images are computed."""

    batch_size: int = field(metadata={"min": 1})
    batch_size_asked: int | None = field(metadata={"min": 1})


@dataclass(frozen=True, kw_only=True, slots=True)
class _Manifest:
    """Parts of a manifest that a continued run reads."""

    num_images: int = field(metadata={"min": 1, "max": MAX_INDEX + 1})
    settings: dict[str, Any]
    run: _Run
    sessions: list[Session]


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write `manifest.json` atomically, making the folder if need be.

    Raises:
        EnvironmentProblem: If the place can't be written to or is full.
    """
    text = json.dumps(manifest, indent=2, sort_keys=True, allow_nan=False) + "\n"
    file = path / MANIFEST
    if not file.is_file() or file.read_bytes() != text.encode():
        files.write_text(file, text, force=True, is_durable=True)


def require_image_space(path: Path, num_images: int, side_px: int, *, archive: bool) -> None:
    """Check that the disk has room for the images; see `image_bytes`.

    Raises:
        EnvironmentProblem: If there is not enough room.
    """
    num_new = max(0, num_images - num_lines(path))
    files.require_space(path, image_bytes(path, num_images, side_px, archive=archive), f"{num_new} more images")


def image_bytes(path: Path, num_images: int, side_px: int, *, archive: bool) -> int:
    """Return the bytes that the missing images and the archive take at most.

    Args:
        path: The folder, or where it will be. Existing images need no more room.
        num_images: Total images in the folder.
        side_px: Side of an image.
        archive: Whether an archive of all of them is asked for. It is written beside an older one that it replaces.
    """
    pixels = side_px * side_px * 3
    num_new = max(0, num_images - num_lines(path))
    has_archive = (path / ARCHIVE).exists()
    writes_archive = num_new > 0 if has_archive else archive
    return num_new * (pixels + BYTES_BESIDE_PIXELS) + (num_images * pixels if writes_archive else 0)
