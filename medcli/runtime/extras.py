"""Packages of the optional extras in pyproject.toml: heavy, and needed by few commands."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType

from medcli.errors import EnvironmentProblem

# PyPI's names of packages whose module is named otherwise.
MODULES = {"pillow": "PIL", "pyyaml": "yaml"}


@dataclass(frozen=True, slots=True)
class Extra:
    """An extra by its name in pyproject.toml, and what needs it."""

    name: str
    use: str

    @property
    def command(self) -> str:
        """The command that installs it."""
        return f"pip install 'medcli[{self.name}]'"


EXTRAS: Mapping[str, Extra] = MappingProxyType(
    {
        "diffusers": Extra("vae", "decoding and encoding of latents"),
        "torch-fidelity": Extra("inception", "the Inception extractor of fid"),
        "torchdiffeq": Extra("dopri5", "the solver dopri5"),
    }
)
"""Extras by the package that they bring."""


def is_installed(package: str) -> bool:
    """Return whether a package's files are there; nothing is imported.

    Args:
        package: PyPI's name.
    """
    module = MODULES.get(package, package.replace("-", "_"))
    try:
        return find_spec(module) is not None
    except ValueError:  # imported, without a spec
        return module in sys.modules


def require_extra(package: str) -> None:
    """Check that the package of an extra is installed; call it before the import.

    Args:
        package: A key of `EXTRAS`.

    Raises:
        EnvironmentProblem: If it is not.
    """
    if not is_installed(package):
        extra = EXTRAS[package]
        raise EnvironmentProblem(f"{extra.use} needs {package}, which is not installed", hint=extra.command)
