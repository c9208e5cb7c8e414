"""Reference statistics: ADM's npz files, and the references that ship with the package."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from medcli.data.assets import asset_path
from medcli.data.npz import npz_keys, read_array
from medcli.errors import DataError
from medcli.scores.extractor import DIGITS, POOL, SPATIAL, FeatureExtractor
from medcli.scores.features import FeatureSet
from medcli.scores.moments import Gaussian

BUNDLED: Mapping[str, str] = MappingProxyType({DIGITS: "digits-reference.safetensors"})
"""References that ship with the package: name and file."""
STATISTICS = ((POOL, "mu", "sigma"), (SPATIAL, "mu_s", "sigma_s"))
"""Kind of features, and the keys of their mean and covariance in an ADM reference file (metrics-facts 1.1)."""
NOTE_KEY = "medcli"
"""In reference files written here, beside ADM's keys: a JSON object in a text array."""
EXACT_SUFFIX = "_float64"
"""In reference files written here: a mean before it was rounded to ADM's float32, such as `mu_float64`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceInfo:
    """What a bundled reference, or a file written by `--write-reference`, says about itself."""

    extractor: str
    """Name of the extractor its features come from."""
    extractor_sha256: str
    """Hash of that extractor's weights."""
    num_images: int
    """Images it was made from."""


def has_statistics(path: Path) -> bool:
    """Whether a file is an npz that holds ready statistics.

    Raises:
        DataError: If it is an npz but damaged.
    """
    return path.suffix == ".npz" and path.is_file() and "mu" in npz_keys(path)


def read_statistics(path: Path, dims: Mapping[str, int]) -> dict[str, Gaussian]:
    """Read means and covariances of an ADM reference, or of a statistics-only file.

    Args:
        path: An npz with `mu` and `sigma`, perhaps `mu_s` and `sigma_s`.
        dims: Widths of the extractor's features; statistics of other kinds are left alone.

    Raises:
        DataError: If an array is missing, has another shape than the extractor's features, or is not finite.
    """
    keys = npz_keys(path)
    info = info_of(path)
    return {
        kind: _statistics(path, kind, mean_key, covariance_key, dims[kind], info.num_images if info else None)
        for kind, mean_key, covariance_key in STATISTICS
        if mean_key in keys and kind in dims
    }


def _statistics(path: Path, kind: str, mean_key: str, covariance_key: str, dim: int, num_rows: int | None) -> Gaussian:
    if covariance_key not in npz_keys(path):
        raise DataError(f"{path} holds {mean_key} but no {covariance_key}", hint="make the statistics again")
    mean, covariance = _mean(path, mean_key), read_array(path, covariance_key)
    if mean.shape != (dim,) or covariance.shape != (dim, dim):
        raise DataError(
            f"{path}: {mean_key} {mean.shape} and {covariance_key} {covariance.shape} do not fit the extractor's "
            f"{dim} {kind} features",
            hint="score with the --extractor these statistics were made with",
        )
    if mean.dtype.kind != "f" or covariance.dtype.kind != "f" or not _is_finite(mean, covariance):
        raise DataError(
            f"{path}: {mean_key} or {covariance_key} is not made of finite numbers", hint="make the file again"
        )
    return Gaussian(
        mean_D=torch.from_numpy(mean.astype(np.float64)),
        covariance_DD=torch.from_numpy(covariance.astype(np.float64)),
        num_rows=num_rows,
    )


def _mean(path: Path, mean_key: str) -> np.ndarray:
    """The mean as ADM's tools read it or, where the file also holds what was rounded to it, that."""
    mean = read_array(path, mean_key)
    if f"{mean_key}{EXACT_SUFFIX}" not in npz_keys(path):
        return mean
    exact = read_array(path, f"{mean_key}{EXACT_SUFFIX}")
    is_rounded_from = exact.shape == mean.shape and np.array_equal(exact.astype(mean.dtype), mean)
    return exact if is_rounded_from else mean


def info_of(path: Path) -> ReferenceInfo | None:
    """What a reference file written here says about itself; None for files of other tools.

    Raises:
        DataError: If it says something that can't be read.
    """
    if NOTE_KEY not in npz_keys(path):
        return None
    try:
        note = json.loads(str(read_array(path, NOTE_KEY)))
        info = ReferenceInfo(**{key: note[key] for key in ("extractor", "extractor_sha256", "num_images")})
    except (KeyError, TypeError, ValueError) as err:
        raise DataError(f"{path}: its {NOTE_KEY} entry can't be read", hint="write the reference again") from err
    if not (isinstance(info.num_images, int) and info.num_images > 1):
        raise DataError(f"{path}: num_images {info.num_images!r} is no count", hint="write the reference again")
    return info


def check_made_with(path: Path, extractor: FeatureExtractor) -> None:
    """Refuse statistics that say they come from another network; those of other tools say nothing.

    Raises:
        DataError: Naming both.
    """
    info = info_of(path)
    if info and (info.extractor, info.extractor_sha256) != (extractor.name, extractor.weights_sha256):
        raise DataError(
            f"{path} holds features of {info.extractor} ({info.extractor_sha256[:8]}), not of {extractor.name} "
            f"({extractor.weights_sha256[:8]})",
            hint=f"score with --extractor {info.extractor} and the weights it was made with",
        )


def _is_finite(*arrays: np.ndarray) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays)


def bundled_info(name: str) -> ReferenceInfo:
    """What a bundled reference says about itself, without reading its features.

    Raises:
        DataError: If the file is damaged.
        EnvironmentProblem: If the installation lacks it.
    """
    path = asset_path(BUNDLED[name])
    try:
        with safe_open(path, "pt") as file:
            return ReferenceInfo(**json.loads(file.metadata()["medcli"]))
    except (SafetensorError, KeyError, TypeError, ValueError) as err:
        raise DataError(f"the bundled reference {path} is damaged", hint="reinstall medcli") from err


def bundled_sha256(name: str) -> str:
    """SHA-256 of a bundled reference's file.

    Raises:
        EnvironmentProblem: If the installation lacks it.
    """
    return hashlib.sha256(asset_path(BUNDLED[name]).read_bytes()).hexdigest()


def load_bundled(name: str, extractor: FeatureExtractor) -> FeatureSet:
    """Read a bundled reference.

    Raises:
        DataError: If the file is damaged, or its features come from other weights than the extractor's.
        EnvironmentProblem: If the installation lacks it.
    """
    info = bundled_info(name)
    if (info.extractor, info.extractor_sha256) != (extractor.name, extractor.weights_sha256):
        raise DataError(
            f"the bundled reference {name} goes with the bundled {info.extractor} extractor, not with these weights",
            hint=f"use --extractor {info.extractor} and leave out --extractor-weights",
        )
    with safe_open(asset_path(BUNDLED[name]), "pt") as file:
        gaussian = Gaussian(
            mean_D=file.get_tensor("mean"), covariance_DD=file.get_tensor("covariance"), num_rows=info.num_images
        )
        rows = file.get_tensor("rows")
    return FeatureSet(name=name, num_images=info.num_images, gaussians={POOL: gaussian}, rows={POOL: rows})


def bundled_bytes(features: FeatureSet, extractor: FeatureExtractor) -> bytes:
    """Contents of a bundled reference file: mean, covariance (float64) and rows (float32) of the pool features."""
    gaussian, rows = features.gaussians[POOL], features.rows[POOL]
    about = {
        "extractor": extractor.name,
        "extractor_sha256": extractor.weights_sha256,
        "num_images": len(rows),
    }
    tensors = {"mean": gaussian.mean_D, "covariance": gaussian.covariance_DD, "rows": rows}
    return save(tensors, metadata={"medcli": json.dumps(about, sort_keys=True)})
