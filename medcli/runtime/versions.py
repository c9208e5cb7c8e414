"""Versions of the software a result was computed with."""

from __future__ import annotations

import platform
from importlib.metadata import version

from medcli.version import __version__


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of medcli, Python and torch, and of further packages, by name."""
    installed = {name: version(name) for name in ("torch", *packages)}
    return {"medcli": __version__, "python": platform.python_version(), **installed}
