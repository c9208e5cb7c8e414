"""Files bundled with the package: a folder a data set, found by their names.

A bundle NAME is a folder `medcli/assets/NAME` with the files named below and a data card; adding one takes no code. Its
model, data set, reference and extractor are called NAME on every command line.
"""

from __future__ import annotations

from pathlib import Path

from medcli.errors import EnvironmentProblem
from medcli.presets import DEFAULT_BUNDLE

FOLDER = Path(__file__).resolve().parent.parent / "assets"
MODEL, CLASSIFIER, REFERENCE = "-sit.safetensors", "-classifier.safetensors", "-reference.safetensors"
IMAGES = "-images.npz"
"""Endings of a bundle's files, after its name: its model, its feature extractor, its reference, its images."""
PARTS = (MODEL, CLASSIFIER, REFERENCE, IMAGES)
BUNDLES = tuple(sorted(path.name for path in FOLDER.iterdir() if path.is_dir())) if FOLDER.is_dir() else ()
"""Names of the bundles."""
BUNDLED_MODEL = f"{DEFAULT_BUNDLE}{MODEL}"
"""Default checkpoint of commands."""


def asset_path(name: str) -> Path:
    """Return the path of a bundled file, `NAME-sit.safetensors` and so on.

    Raises:
        EnvironmentProblem: If the installation lacks it.
    """
    path = FOLDER / name.partition("-")[0] / name
    if not path.is_file():
        raise EnvironmentProblem(f"the bundled file {name} is missing from this installation", hint="reinstall medcli")
    return path


def bundled_model(name: str) -> Path | None:
    """Return the model of a bundle, by the bundle's name or by the model's file name; None: there is no such bundle.

    Raises:
        EnvironmentProblem: If the installation lacks it.
    """
    bundle = name.removesuffix(MODEL)
    return asset_path(f"{bundle}{MODEL}") if bundle in BUNDLES else None
