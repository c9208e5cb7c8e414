"""Store of measurements, one file each, written atomically so that a killed run can resume."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from medcli.data.npz import read_npy
from medcli.errors import ConfigError, DataError, listed
from medcli.runtime.files import require_regular, write_bytes, write_text
from medcli.runtime.json_records import InvalidJson, Record, as_record, read_json
from medcli.runtime.locks import FolderLocks

SETTINGS = "settings.json"
LOCK = ".lock"
FORMAT_VERSION = 2


class Store:
    """Folder of measurements under one set of settings; a context manager.

    Args:
        path: The folder, created if missing.

    Raises:
        ConfigError: If another process is tuning there.
        EnvironmentProblem: If it is not writable.
    """

    def __init__(self, path: Path) -> None:
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{path} is a file, expected a folder name", hint="choose another name with --output")
        if path.is_dir() and not (path / SETTINGS).exists() and any(entry.name[0] != "." for entry in path.iterdir()):
            raise ConfigError(f"{path} is not empty and holds no tuning of medcli", hint="choose another --output")
        self.path = path
        self._locks = FolderLocks(path / LOCK)
        if not self._locks.is_alone:
            self._locks.close()
            raise ConfigError(f"another process is tuning in {path}", hint="wait for it, or choose another --output")

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._locks.close()

    def claim(self, settings: Mapping[str, Any]) -> None:
        """Check that the folder's measurements were made under these settings.

        Raises:
            ConfigError: If they were made under others.
            DataError: If the recorded settings are damaged.
        """
        wanted = {"format_version": FORMAT_VERSION, **settings}
        before = self.json(SETTINGS)
        if before is None:
            self.put_json(SETTINGS, wanted)
            return
        names = sorted(set(wanted) | set(before))
        if differing := [name for name in names if before.get(name) != _plain(wanted.get(name))]:
            raise ConfigError(
                f"{self.path} holds a tuning with other settings ({listed(differing)})",
                hint="choose another --output, or remove that folder",
            )

    def json(self, name: str) -> dict[str, Any] | None:
        """Read a stored JSON object; None if there is none.

        Raises:
            DataError: If it is damaged.
        """
        file = self.path / name
        require_regular(file)
        try:
            value = read_json(file)
            if not isinstance(value, dict):
                raise InvalidJson("no object")
        except FileNotFoundError:
            return None
        except (InvalidJson, OSError) as err:
            raise damaged(file, str(err)) from err
        return value

    def record(self, kind: type[Record], name: str) -> Record | None:
        """Read a stored JSON object into a dataclass; None if there is none.

        Raises:
            DataError: If it is damaged.
        """
        value = self.json(name)
        try:
            return None if value is None else as_record(kind, value)
        except InvalidJson as err:
            raise damaged(self.path / name, str(err)) from err

    def put_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Store a JSON object, replacing an earlier one."""
        write_text(self.path / name, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n", force=True)

    def array(self, name: str, shape: tuple[int, ...], make: Callable[[], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Read a stored array of finite numbers, or compute and store it.

        Args:
            shape: Its shape.
            make: Computes it.

        Raises:
            DataError: If it is damaged.
        """
        file = self.path / name
        if not file.exists():
            value = make()
            content = io.BytesIO()
            np.save(content, value, allow_pickle=False)
            write_bytes(file, content.getvalue(), force=True)
            return value
        value = _read(file, shape)
        if not np.isfinite(value).all():
            raise damaged(file, "not all values are finite")
        return value


def damaged(file: Path, why: str) -> DataError:
    """Build the error of a stored file that can't be used."""
    return DataError(f"{file} is damaged ({why})", hint="remove it, and run the command again")


def _read(file: Path, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Read an array and check its shape and type."""
    try:
        value = read_npy(file)
    except DataError as err:
        raise damaged(file, "no whole array") from err
    if value.shape != shape or value.dtype not in (np.float32, np.float64):
        raise damaged(file, f"{value.dtype} of shape {value.shape}, expected floats of shape {shape}")
    return value


def _plain(value: Any) -> Any:
    """Convert to the value that JSON reads back: tuples become lists."""
    return json.loads(json.dumps(value))
