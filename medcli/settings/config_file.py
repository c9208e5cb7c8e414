"""Read the settings of a command from a file: TOML, or what an earlier run wrote down."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medcli.errors import ConfigError, EnvironmentProblem
from medcli.settings.declare import Setting
from medcli.settings.values import from_json

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_BYTES = 16 << 20
"""A larger file is no list of settings."""

RecordReader = Callable[[Mapping[str, Any], Path], Mapping[str, Any] | None]
"""(JSON object, its path) -> settings by key of the run it records; None: it is no such record."""


def read_settings(
    path: Path, declared: Mapping[str, Setting], readers: Mapping[str, RecordReader], command: str
) -> dict[str, Any]:
    """Read and check the settings in a file.

    Args:
        path: TOML, or JSON: the record of a run, or an object with flag names as keys.
        declared: The settings of the command, by key.
        readers: Readers of the records that runs write, by the name of the command that wrote them.
        command: Name of the command that is called.

    Raises:
        ConfigError: If the file is no such file, or a key or a value in it is wrong; the message names the file.
        EnvironmentProblem: If the system can't read it.
    """
    content = _load(path)
    for writer, reader in readers.items():
        recorded = reader(content, path)
        if recorded is not None and writer != command:
            raise ConfigError(
                f"{path.name} records a run of medcli {writer}, not of {command}",
                hint="write the settings that are meant into a TOML file",
            )
        if recorded is not None:
            content = recorded
            break
    found: dict[str, Any] = {}
    for name, value in content.items():
        key = name.replace("-", "_")
        if key not in declared:
            raise unknown_setting(name, declared, path.name)
        if key in found:
            raise ConfigError(f"{path.name} gives {key} twice", hint="keep one spelling")
        if value is not None:
            found[key] = from_json(declared[key], value, f"{name} in {path.name}")
    return found


def _load(path: Path) -> Mapping[str, Any]:
    try:
        if path.is_dir():
            raise ConfigError(f"--config {path} is a folder", hint="name the manifest.json or config.json in it")
        if path.exists() and not path.is_file():
            raise ConfigError(f"--config {path} is a pipe, a device or a socket", hint="name a file")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError as err:
        raise ConfigError(f"--config {path}: there is no such file") from err
    except OSError as err:
        raise EnvironmentProblem(f"{path} can't be read: {(err.strerror or str(err)).lower()}") from err
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path} is too large for a file of settings", hint="expected TOML or JSON")
    if path.suffix == ".json" and not raw.strip():  # as a power cut leaves a record of a run
        raise ConfigError(f"--config {path} is empty", hint="name another record, or a TOML file of settings")
    kind = "JSON" if raw.lstrip()[:1] == b"{" else "TOML"
    try:
        text = raw.decode("utf-8-sig")
        content = (
            json.loads(text, object_pairs_hook=_unique) if kind == "JSON" else tomllib.loads(text.replace("\r\n", "\n"))
        )
    except (ValueError, RecursionError) as err:
        reason = str(err) if not isinstance(err, RecursionError) else "nested too deeply"
        raise ConfigError(
            f"{path} is no {kind}: {reason}", hint='write settings like steps = 50, or rho = "0.3,0.1"'
        ) from err
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no settings", hint='write them like {"steps": 50}')
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key given twice, of which JSON readers keep the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found


def unknown_setting(name: str, declared: Mapping[str, Setting], source: str) -> ConfigError:
    """Return the error of a name that is no setting, with the nearest that is.

    Args:
        declared: The settings there are.
        source: Name of the file or function it was given to.
    """
    near = difflib.get_close_matches(name.replace("-", "_"), declared, n=1)
    hint = f"did you mean {near[0]}?" if near else f"settings here: {', '.join(list(declared)[:8])}, ..."
    return ConfigError(f"{source}: unknown setting {name!r}", hint=hint)
