"""Samples and reference of a score: image sets, statistics files and bundled references."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medcli.data.image_archive import IMAGES_KEY
from medcli.data.image_source import ImageSource
from medcli.data.images import MANIFEST, open_images, read_manifest
from medcli.data.npz import npz_keys
from medcli.errors import ConfigError, DataError
from medcli.runtime.reporting import Reporter
from medcli.scores.extractor import INCEPTION
from medcli.scores.features import FeatureSet, Wanted
from medcli.scores.protocol import statistics_sha256
from medcli.scores.reference import (
    BUNDLED,
    bundled_info,
    bundled_sha256,
    check_made_with,
    has_statistics,
    info_of,
    load_bundled,
    read_statistics,
)
from medcli.workflows.fid.features import FeatureComputer

SAMPLES_ROOT = Path("samples")
"""Default folder of `medcli sample`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """Samples or reference, inspected but not read."""

    name: str
    bundled: str | None = None
    """Name of the bundled reference it is."""
    statistics: Path | None = None
    """The npz whose ready statistics are used."""
    source: ImageSource | None = None
    """Its images; None if it holds statistics alone."""

    def images_for(self, wanted: Wanted) -> ImageSource | None:
        """Return the images if the network must run on them, else None."""
        return self.source if wanted.rows or (wanted.gaussians and not self.statistics) else None

    @property
    def num_images(self) -> int | None:
        """Number of images; None for statistics alone and for bundled references."""
        return None if self.source is None else self.source.num_images


@dataclass(frozen=True, kw_only=True, slots=True)
class SideFeatures:
    """Features of samples or reference, and hashes of their source."""

    features: FeatureSet
    sha256: str | None
    """Hash of the statistics behind FID and sFID if the file has some, else of the images."""
    images_sha256: str | None
    """Hash of the images; None if none were read."""


def newest_sample_folder(root: Path) -> Path:
    """Return the folder under `root` with the newest manifest.

    Raises:
        DataError: If no folder there holds a manifest.
    """
    manifests = sorted(root.glob(f"*/{MANIFEST}"), key=lambda path: (path.stat().st_mtime_ns, path.parent.name))
    if not manifests:
        raise DataError(
            f"no samples to score: no folder under ./{root} holds a {MANIFEST}",
            hint="run medcli sample first, or name a folder: medcli fid SAMPLES REFERENCE",
        )
    return manifests[-1].parent


def survey(path: Path, num_images: int | None = None, seed: int | None = None) -> Side:
    """Inspect a path, and check what can be checked without a network.

    Args:
        num_images, seed: See `open_images`.

    Raises:
        ConfigError: If ready statistics are to be cut to fewer images.
        DataError: If there is nothing usable.
    """
    if not has_statistics(path):
        return Side(name=str(path), source=open_images(path, num_images, seed))
    if num_images is not None:
        raise ConfigError(
            f"{path} holds ready statistics, they can't be cut to {num_images} images", hint="leave out --num-images"
        )
    source = open_images(path) if IMAGES_KEY in npz_keys(path) else None
    return Side(name=str(path), statistics=path, source=source)


def survey_reference(name: str) -> Side:
    """Inspect a bundled reference by name, or a path as `survey` does.

    Raises:
        DataError: If it is neither, or there is nothing usable.
    """
    if name in BUNDLED:
        return Side(name=name, bundled=name)
    path = Path(name)
    if not path.exists():
        near = difflib.get_close_matches(name, BUNDLED, n=1)
        hint = f"did you mean {near[0]}?" if near else f"give a folder, an npz file, or one of: {', '.join(BUNDLED)}"
        raise DataError(f"no reference {name!r}: neither a path nor a bundled reference", hint=hint)
    return survey(path)


def manifest_reference(samples_path: Path) -> str | None:
    """Return the reference named by the samples' manifest, if any."""
    folder = samples_path if samples_path.is_dir() else samples_path.parent  # samples.npz is beside the manifest
    manifest = read_manifest(folder) or {}
    named = manifest.get("reference")
    return named if isinstance(named, str) else None


def common_reference(paths: Sequence[Path]) -> str:
    """Return the reference that the manifests of all sample sets name.

    Raises:
        DataError: If one names none, or they name different ones.
    """
    named = {path: _required_reference(path) for path in paths}
    if len(set(named.values())) > 1:
        first, other = paths[0], next(path for path in paths if named[path] != named[paths[0]])
        raise DataError(
            f"{first} names the reference {named[first]}, {other} names {named[other]}",
            hint="name one for all with --reference",
        )
    return named[paths[0]]


def _required_reference(samples_path: Path) -> str:
    named = manifest_reference(samples_path)
    if named is None:
        raise DataError(
            f"{samples_path} names no reference to score against",
            hint=f"name one: medcli fid {samples_path} REFERENCE (a folder, an npz, or {', '.join(BUNDLED)})",
        )
    return named


def extractor_name(asked: str | None, reference: Side | None, samples_path: Path) -> str:
    """Return the requested extractor, else the reference's, else that of the reference in the samples' manifest.

    Raises:
        ConfigError: If the reference is bundled and was made with another than the requested one.
    """
    made_with = _made_with(reference)
    if reference and reference.bundled and asked not in (None, made_with):
        raise ConfigError(
            f"the bundled reference {reference.name} holds {made_with} features, not {asked}",
            hint="leave out --extractor",
        )
    named = manifest_reference(samples_path)
    if asked is None and made_with is None and named is not None and named in BUNDLED:
        return bundled_info(named).extractor
    return asked or made_with or INCEPTION


def _made_with(reference: Side | None) -> str | None:
    if reference is None:
        return None
    if reference.bundled:
        return bundled_info(reference.bundled).extractor
    info = info_of(reference.statistics) if reference.statistics else None
    return info.extractor if info else None


def features_of(side: Side, computer: FeatureComputer, wanted: Wanted, reporter: Reporter) -> SideFeatures:
    """Return the features of samples or reference: statistics from its file if it holds some, the rest from images."""
    extractor = computer.extractor
    if side.bundled:
        found = bundled_sha256(side.bundled)
        return SideFeatures(features=load_bundled(side.bundled, extractor), sha256=found, images_sha256=found)
    ready = {}
    if side.statistics:
        check_made_with(side.statistics, extractor)
        ready = read_statistics(side.statistics, extractor.dims)
        wanted = replace(wanted, gaussians=frozenset())
    source = side.images_for(wanted)
    if source is None:
        features, images = FeatureSet(name=side.name, num_images=side.num_images, gaussians=ready), None
    else:
        features = computer.features_of(source, wanted, reporter)
        images = features.content_sha256
        features = replace(features, gaussians=ready or features.gaussians, name=side.name)
    digest = statistics_sha256(ready) if ready else images
    return SideFeatures(features=features, sha256=digest, images_sha256=images)
