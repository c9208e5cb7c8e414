"""Score a set of images against a reference."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medcli.data.images import MANIFEST, ImageSource, open_images, read_manifest
from medcli.data.npz import IMAGES_KEY, npz_keys
from medcli.errors import ConfigError, DataError
from medcli.metrics.extractor import INCEPTION, POOL, FeatureExtractor
from medcli.metrics.features import FeatureSet, Wanted, extract
from medcli.metrics.inception_score import BLOCK_SIZE
from medcli.metrics.precision_recall import NUM_NEIGHBOURS
from medcli.metrics.reference import BUNDLED, bundled_info, has_statistics, load_bundled, read_statistics
from medcli.metrics.registry import load_extractor
from medcli.metrics.scores import METRICS, Scores, metrics_of, score, wanted_of
from medcli.runtime.device import pick_device
from medcli.runtime.reporting import Reporter
from medcli.version import __version__

SAMPLES_ROOT = Path("samples")
"""Where `medcli sample` puts its folders."""
PROTOCOL = "adm"
"""Formulas, block size, k and order of the ADM suite, in exact arithmetic (metrics-facts 1)."""
JSON_KEYS = {"is": "inception_score"}
"""Report keys that differ from the metric's name on the command line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FidRequest:
    """What to score, and how."""

    samples: Path | None = None
    """A folder of images, a sample folder or an npz; None takes the newest sample folder under `./samples`."""
    reference: str | None = None
    """The same, an npz of statistics, or the name of a bundled reference; None asks the samples' manifest."""
    metrics: tuple[str, ...] | None = None
    """Names in `METRICS`; None computes all the extractor has the layers for."""
    extractor: str | None = None
    """Feature network; None takes the one the reference was made with, else Inception."""
    extractor_weights: Path | None = None
    """Weights of the extractor; None looks where they belong."""
    batch_size: int = 64
    """Most images in one network call."""
    device: str | None = None
    """Where the network runs; None takes the best there is."""
    num_images: int | None = None
    """Samples to score, from the first; None scores all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FidReport:
    """Scores, and what they were computed from."""

    samples: str
    reference: str
    scores: Scores
    num_samples: int | None
    """Samples scored; None where the samples are a statistics file."""
    num_reference: int | None
    """Reference images at hand; None where the reference is a statistics file without images."""
    extractor: str
    extractor_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Scores under the contract's keys, then what they rest on."""
        return {
            **{JSON_KEYS.get(name, name): value for name, value in self.scores.values.items()},
            "unavailable": {JSON_KEYS.get(name, name): why for name, why in self.scores.unavailable.items()},
            "num_samples": self.num_samples,
            "num_reference": self.num_reference,
            "extractor": self.extractor,
            "protocol": PROTOCOL,
            "samples": self.samples,
            "reference": self.reference,
            "provenance": {
                "extractor_sha256": self.extractor_sha256,
                "inception_score_block_size": BLOCK_SIZE,
                "precision_recall_neighbours": NUM_NEIGHBOURS,
                "medcli": __version__,
                "torch": torch.__version__,
            },
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Side:
    """One of the two image sets, looked at but not yet read."""

    name: str
    statistics: Path | None = None
    """The npz whose ready statistics are used."""
    source: ImageSource | None = None
    """Its images; None if it holds statistics alone."""


def score_samples(request: FidRequest, reporter: Reporter) -> FidReport:
    """Score samples against a reference: all that is cheap to check first, then one pass over each set.

    Raises:
        ConfigError: If a metric or extractor is unknown, or the extractor is not the reference's.
        DataError: If the samples or the reference are missing or unusable.
        EnvironmentProblem: If the extractor's weights or the device are missing.
    """
    _check_metrics(request.metrics)
    samples_path = request.samples or newest_sample_folder(SAMPLES_ROOT)
    samples = _survey(samples_path, request.num_images)
    named_reference = _manifest_reference(samples_path)
    reference_name = request.reference or _required_reference(samples_path, named_reference)
    reference = None if reference_name in BUNDLED else _survey(_reference_path(reference_name), None)
    extractor = load_extractor(
        _extractor_name(request.extractor, reference_name, named_reference),
        weights_path=request.extractor_weights,
        device=pick_device(request.device),
    )

    metrics = request.metrics or metrics_of(extractor)
    wanted_samples, wanted_reference = wanted_of(metrics, extractor)
    if reference is None:
        reference_features = load_bundled(reference_name, extractor)
    else:
        reference_features = _features(reference, extractor, wanted_reference, request.batch_size, reporter)
    sample_features = _features(samples, extractor, wanted_samples, request.batch_size, reporter)
    scores = score(metrics, sample_features, reference_features, extractor)
    _warn_of_few(sample_features, extractor, reporter)
    return FidReport(
        samples=samples.name,
        reference=reference_features.name,
        scores=scores,
        num_samples=sample_features.num_images,
        num_reference=reference_features.num_images,
        extractor=extractor.name,
        extractor_sha256=extractor.weights_sha256,
    )


def newest_sample_folder(root: Path) -> Path:
    """The folder under `root` whose manifest was written last.

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


def _check_metrics(metrics: tuple[str, ...] | None) -> None:
    for name in metrics or ():
        if name not in METRICS:
            raise ConfigError(f"unknown metric {name!r}", hint=f"choose from {', '.join(METRICS)}")


def _survey(path: Path, num_images: int | None) -> _Side:
    """Find out what a path holds and check what can be checked without a network."""
    if not has_statistics(path):
        return _Side(name=str(path), source=open_images(path, num_images))
    if num_images is not None:
        raise ConfigError(f"{path} holds ready statistics, they can't be cut to {num_images} images")
    source = open_images(path) if IMAGES_KEY in npz_keys(path) else None
    return _Side(name=str(path), statistics=path, source=source)


def _manifest_reference(samples_path: Path) -> str | None:
    """Name or path of the reference the samples' manifest gives, if any."""
    folder = samples_path if samples_path.is_dir() else samples_path.parent  # samples.npz lies beside the manifest
    manifest = read_manifest(folder) or {}
    named = manifest.get("reference")
    return named if isinstance(named, str) else None


def _required_reference(samples_path: Path, named: str | None) -> str:
    if named is None:
        raise DataError(
            f"{samples_path} names no reference to score against",
            hint=f"name one: medcli fid {samples_path} REFERENCE (a folder, an npz, or {', '.join(BUNDLED)})",
        )
    return named


def _reference_path(name: str) -> Path:
    path = Path(name)
    if not path.exists():
        near = difflib.get_close_matches(name, BUNDLED, n=1)
        hint = f"did you mean {near[0]}?" if near else f"give a folder, an npz file, or one of: {', '.join(BUNDLED)}"
        raise DataError(f"no reference {name!r}: neither a path nor a bundled reference", hint=hint)
    return path


def _extractor_name(asked: str | None, reference_name: str, named_reference: str | None) -> str:
    """The extractor asked for, else the bundled reference's, else that of the reference the samples were made for."""
    if reference_name in BUNDLED:
        made_with = bundled_info(reference_name).extractor
        if asked not in (None, made_with):
            raise ConfigError(
                f"the bundled reference {reference_name} holds {made_with} features, not {asked}",
                hint="leave out --extractor",
            )
        return made_with
    if asked is None and named_reference is not None and named_reference in BUNDLED:
        return bundled_info(named_reference).extractor
    return asked or INCEPTION


def _features(
    side: _Side, extractor: FeatureExtractor, wanted: Wanted, batch_size: int, reporter: Reporter
) -> FeatureSet:
    """Features of one side: ready statistics where its file holds them (as ADM does), the rest from its images."""
    ready = read_statistics(side.statistics, extractor.dims) if side.statistics else {}
    if side.statistics:
        wanted = Wanted(rows=wanted.rows)
    if side.source is None:
        return FeatureSet(name=side.name, num_images=None, gaussians=ready)
    if not wanted.rows and not wanted.gaussians:
        return FeatureSet(name=side.name, num_images=side.source.num_images, gaussians=ready)
    found = extract(side.source, extractor, wanted, batch_size=batch_size, reporter=reporter)
    return FeatureSet(name=side.name, num_images=found.num_images, gaussians=ready or found.gaussians, rows=found.rows)


def _warn_of_few(samples: FeatureSet, extractor: FeatureExtractor, reporter: Reporter) -> None:
    dim = extractor.dims[POOL]
    if samples.num_images is not None and samples.num_images <= dim:
        reporter.note(
            f"warning: {samples.num_images} samples are fewer samples than dimensions ({dim}): FID reads far too high; "
            "compare it only with scores of as many samples"
        )
