"""Reference statistics: ADM's npz files, and the bundled references."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from medcli.data.assets import BUNDLES, REFERENCE, asset_path
from medcli.data.npz import is_npz, npz_keys, read_array
from medcli.errors import DataError
from medcli.runtime.json_records import parse_json
from medcli.scores.extractor import POOL, SPATIAL, FeatureExtractor
from medcli.scores.features import FeatureSet
from medcli.scores.moments import Gaussian

BUNDLED: Mapping[str, str] = MappingProxyType({name: f"{name}{REFERENCE}" for name in BUNDLES})
"""Bundled references: name and file."""
STATISTICS = ((POOL, "mu", "sigma"), (SPATIAL, "mu_s", "sigma_s"))
"""Kind of features, and keys of their mean and covariance in ADM's reference files (metrics-facts 1.1)."""
NOTE_KEY = "medcli"
"""Key of a JSON object in a text array, in reference files written here."""
EXACT_SUFFIX = "_float64"
"""Suffix of a mean before rounding to ADM's float32, in reference files written here."""
LARGEST = 1e50
"""Bound on statistics: their squares and products stay finite."""
ASYMMETRY = 1e-5
"""Largest difference between a covariance and its transpose, relative to its largest variance: rounding of float32."""
NEGATIVE_SHARE = 1e-5
"""Smallest eigenvalue allowed, times -sqrt(D), relative to the largest variance: rounding of float32 sums."""


@dataclass(frozen=True, slots=True)
class ReferenceInfo:
    """Note in a bundled reference, or in a file of `--write-reference`."""

    extractor: str
    """Name of the extractor its features come from."""
    extractor_sha256: str
    """Hash of that extractor's weights."""
    num_images: int
    """Number of images it was computed from."""

    @classmethod
    def of(cls, extractor: FeatureExtractor, num_images: int) -> ReferenceInfo:
        """Return the note of features of an extractor."""
        return cls(extractor.name, extractor.weights_sha256, num_images)

    def goes_with(self, extractor: FeatureExtractor) -> bool:
        """Check that the features come from this extractor with these weights."""
        return (self.extractor, self.extractor_sha256) == (extractor.name, extractor.weights_sha256)

    def text(self) -> str:
        """Return the note as it is stored."""
        return json.dumps(asdict(self), sort_keys=True)


def has_statistics(path: Path) -> bool:
    """Return True for an npz file with statistics, whatever its name.

    Raises:
        DataError: If it is an npz but damaged.
    """
    return is_npz(path) and "mu" in npz_keys(path)


def read_statistics(path: Path, dims: Mapping[str, int]) -> dict[str, Gaussian]:
    """Read means and covariances of an ADM reference, or of a statistics-only file.

    Args:
        path: An npz with `mu` and `sigma`, perhaps `mu_s` and `sigma_s`.
        dims: Widths of the extractor's features; statistics of other kinds are ignored.

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
    for key, array in ((mean_key, mean), (covariance_key, covariance)):
        if array.dtype.kind != "f":
            raise DataError(f"{path}: {key} is {array.dtype}, expected floating point", hint="make the file again")
        if not np.isfinite(array).all() or float(np.abs(array).max(initial=0)) > LARGEST:
            raise DataError(
                f"{path}: {key} is not made of finite numbers up to {LARGEST:g}", hint="make the file again"
            )
    covariance_DD = covariance.astype(np.float64)
    if problem := covariance_problem(covariance_DD):
        raise DataError(f"{path}: {covariance_key} is not a covariance: {problem}", hint="compute the statistics again")
    return Gaussian(
        mean_D=torch.from_numpy(mean.astype(np.float64)),
        covariance_DD=torch.from_numpy(covariance_DD),
        num_rows=num_rows,
    )


def covariance_problem(covariance_DD: npt.NDArray[np.float64]) -> str | None:
    """Describe why a matrix is not a covariance; None if it is symmetric and positive semi-definite up to rounding."""
    variance_D = covariance_DD.diagonal()
    largest = float(variance_D.max(initial=0.0))
    if (variance_D < 0).any():
        place = int(variance_D.argmin())
        return f"the variance of feature {place} is {variance_D[place]:.4g}"
    asymmetry = float(np.abs(covariance_DD - covariance_DD.T).max(initial=0.0))
    if asymmetry > ASYMMETRY * largest:
        return f"it differs from its transpose by {asymmetry:.4g}"
    tolerance = NEGATIVE_SHARE * math.sqrt(len(covariance_DD)) * largest
    # Cholesky tells the sign of the smallest eigenvalue at a tenth of the cost of computing it.
    shifted_DD = torch.from_numpy(covariance_DD + 2 * tolerance * np.eye(len(covariance_DD)))
    if largest and int(torch.linalg.cholesky_ex(shifted_DD).info):
        smallest = float(np.linalg.eigvalsh(covariance_DD)[0])
        return f"its smallest eigenvalue is {smallest:.4g}, below -{2 * tolerance:.2g}"
    return None if largest or not covariance_DD.any() else "it has covariances but no variance"


def _mean(path: Path, mean_key: str) -> np.ndarray:
    """Return the mean as ADM's tools read it, or the value it was rounded from, if stored."""
    mean = read_array(path, mean_key)
    if f"{mean_key}{EXACT_SUFFIX}" not in npz_keys(path):
        return mean
    exact = read_array(path, f"{mean_key}{EXACT_SUFFIX}")
    is_rounded_from = exact.shape == mean.shape and np.array_equal(exact.astype(mean.dtype), mean)
    return exact if is_rounded_from else mean


def info_of(path: Path) -> ReferenceInfo | None:
    """Return the note in a reference file written here; None for files of other tools.

    Raises:
        DataError: If the note is not valid.
    """
    if NOTE_KEY not in npz_keys(path):
        return None
    try:
        note = parse_json(str(read_array(path, NOTE_KEY)))
        info = ReferenceInfo(**{key: note[key] for key in ("extractor", "extractor_sha256", "num_images")})
    except (KeyError, TypeError, ValueError) as err:
        raise DataError(f"{path}: its {NOTE_KEY} entry can't be read", hint="write the reference again") from err
    if not (isinstance(info.num_images, int) and info.num_images > 1):
        raise DataError(f"{path}: num_images {info.num_images!r} is no count", hint="write the reference again")
    return info


def check_made_with(path: Path, extractor: FeatureExtractor) -> None:
    """Refuse statistics whose note names another extractor; files of other tools have no note.

    Raises:
        DataError: Naming both.
    """
    info = info_of(path)
    if info and not info.goes_with(extractor):
        raise DataError(
            f"{path} holds features of {info.extractor} ({info.extractor_sha256[:8]}), not of {extractor.name} "
            f"({extractor.weights_sha256[:8]})",
            hint=f"score with --extractor {info.extractor} and the weights it was made with",
        )


def bundled_info(name: str) -> ReferenceInfo:
    """Return the note of a bundled reference.

    Raises:
        DataError: If the file is damaged.
        EnvironmentProblem: If the installation lacks it.
    """
    path = asset_path(BUNDLED[name])
    try:
        with safe_open(path, "pt") as file:
            return ReferenceInfo(**parse_json(file.metadata()[NOTE_KEY]))
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
    if not info.goes_with(extractor):
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
    """Contents of a bundled reference file: mean, covariance (float64) and rows (float32) of the pool features.

    The rows may be those of some of its images.
    """
    gaussian, rows = features.gaussians[POOL], features.rows[POOL]
    assert features.num_images is not None
    tensors = {"mean": gaussian.mean_D, "covariance": gaussian.covariance_DD, "rows": rows}
    return save(tensors, metadata={NOTE_KEY: ReferenceInfo.of(extractor, features.num_images).text()})
