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

from medcli.errors import ConfigError, DataError, listed
from medcli.runtime.files import write_bytes, write_text
from medcli.runtime.json_records import read_json
from medcli.runtime.locks import FolderLocks

SETTINGS = "settings.json"
LOCK = ".lock"
FORMAT_VERSION = 1


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
        try:
            value = read_json(file)
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as err:
            raise DataError(f"{file} is damaged ({err})", hint="remove it, and run the command again") from err
        if not isinstance(value, dict):
            raise DataError(f"{file} is damaged (no object)", hint="remove it, and run the command again")
        return value

    def put_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Store a JSON object, replacing an earlier one."""
        write_text(self.path / name, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n", force=True)

    def array(self, name: str, make: Callable[[], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Read a stored array, or compute and store it.

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
        try:
            return np.asarray(np.load(file, allow_pickle=False))
        except (ValueError, EOFError, OSError) as err:
            raise DataError(f"{file} is damaged ({err})", hint="remove it, and run the command again") from err


def _plain(value: Any) -> Any:
    """Convert to the value that JSON reads back: tuples become lists."""
    return json.loads(json.dumps(value))
