"""Files bundled with the package."""

from __future__ import annotations

from pathlib import Path

from medcli.errors import EnvironmentProblem

BUNDLED_MODEL = "digits-sit.safetensors"
"""Default checkpoint of commands."""


def asset_path(name: str) -> Path:
    """Return the path of a bundled file.

    Raises:
        EnvironmentProblem: If the installation lacks it.
    """
    path = Path(__file__).resolve().parent.parent / "assets" / name
    if not path.is_file():
        raise EnvironmentProblem(f"the bundled file {name} is missing from this installation", hint="reinstall medcli")
    return path
