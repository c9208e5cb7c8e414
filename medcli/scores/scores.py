"""The metrics by name: what each needs, and its value from two feature sets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch

from medcli.errors import DataError
from medcli.runtime.reporting import Reporter, Silent
from medcli.scores.covariance_factor import factored
from medcli.scores.extractor import CPU, LOGITS, POOL, SPATIAL, FeatureExtractor
from medcli.scores.features import FeatureSet, Wanted
from medcli.scores.fid import frechet_distance
from medcli.scores.inception_score import inception_score_estimate
from medcli.scores.jackknife import NUM_BLOCKS, frechet_error
from medcli.scores.kid import kernel_distance
from medcli.scores.precision_recall import NUM_NEIGHBOURS, precision_recall
from medcli.scores.score_with_error import Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Working:
    """How scores are computed; none of it changes them."""

    reporter: Reporter
    device: torch.device
    """Where rows are held against rows; statistics are compared on the CPU."""

    def told(self, unit: str) -> Callable[[int, int], None]:
        """Tells the reporter how much is done, and of how much."""
        return lambda done, total: self.reporter.progress(done, total, unit)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorer:
    """A computation that gives one or several metrics at once."""

    metrics: tuple[str, ...]
    """Names on the command line."""
    gaussians: str | None = None
    """Kind of features whose statistics it compares."""
    sample_rows: str | None = None
    """Kind of features it needs of every sample."""
    reference_rows: str | None = None
    """Kind of features it needs of every reference image."""
    min_images: int = 2
    """Fewest images on each side whose rows it needs."""
    compute: Callable[[FeatureSet, FeatureSet, Working], tuple[Estimate, ...]]
    """Values in the order of `metrics`, from (samples, reference)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Estimates by metric, and why a metric asked for has none."""

    estimates: Mapping[str, Estimate | None]
    unavailable: Mapping[str, str]

    @property
    def values(self) -> dict[str, float | None]:
        """Plain values by metric, None where unavailable."""
        return {name: found.value if found else None for name, found in self.estimates.items()}

    @property
    def errors(self) -> dict[str, Estimate]:
        """Estimates that have a standard error, by metric."""
        return {name: found for name, found in self.estimates.items() if found and found.standard_error is not None}


def _fid(samples: FeatureSet, reference: FeatureSet, working: Working) -> tuple[Estimate, ...]:
    return (_frechet(POOL, samples, reference, working),)


def _sfid(samples: FeatureSet, reference: FeatureSet, working: Working) -> tuple[Estimate, ...]:
    return (_frechet(SPATIAL, samples, reference, working),)


def _frechet(kind: str, samples: FeatureSet, reference: FeatureSet, working: Working) -> Estimate:
    gaussian, target = samples.gaussians[kind], factored(reference.gaussians[kind])
    error = None
    if blocks := samples.block_moments.get(kind):
        total, told = min(NUM_BLOCKS, gaussian.num_rows or NUM_BLOCKS), working.told("blocks left out")
        error = frechet_error(gaussian, blocks, target, lambda done: told(done, total))
    return Estimate(
        value=frechet_distance(gaussian, target), standard_error=error, method=f"jackknife over {NUM_BLOCKS} blocks"
    )


def _inception_score(samples: FeatureSet, _reference: FeatureSet, _working: Working) -> tuple[Estimate, ...]:
    return (inception_score_estimate(samples.rows[LOGITS]),)


def _precision_recall(samples: FeatureSet, reference: FeatureSet, working: Working) -> tuple[Estimate, ...]:
    counts = precision_recall(
        samples.rows[POOL], reference.rows[POOL], device=working.device, told=working.told("rows held against rows")
    )
    return (
        Estimate(
            value=counts.precision,
            standard_error=binomial_error(counts.precision, counts.num_samples),
            method="binomial over samples",
        ),
        Estimate(
            value=counts.recall,
            standard_error=binomial_error(counts.recall, counts.num_references),
            method="binomial over reference images",
        ),
    )


def binomial_error(share: float, num: int) -> float:
    """Standard error of a share of `num` independent yes-or-no answers."""
    return (share * (1 - share) / num) ** 0.5


def _kid(samples: FeatureSet, reference: FeatureSet, working: Working) -> tuple[Estimate, ...]:
    told = working.told("tiles of kernel values")
    return (kernel_distance(samples.rows[POOL], reference.rows[POOL], device=working.device, told=told),)


SCORERS = (
    Scorer(metrics=("fid",), gaussians=POOL, compute=_fid),
    Scorer(metrics=("sfid",), gaussians=SPATIAL, compute=_sfid),
    Scorer(metrics=("is",), sample_rows=LOGITS, compute=_inception_score),
    Scorer(
        metrics=("precision", "recall"),
        sample_rows=POOL,
        reference_rows=POOL,
        min_images=NUM_NEIGHBOURS + 1,
        compute=_precision_recall,
    ),
    Scorer(metrics=("kid",), sample_rows=POOL, reference_rows=POOL, compute=_kid),
)
METRICS = tuple(name for scorer in SCORERS for name in scorer.metrics)
"""Every metric, in the order of reports."""


def metrics_of(extractor: FeatureExtractor) -> tuple[str, ...]:
    """Metrics an extractor has the layers for."""
    return tuple(name for scorer in SCORERS if _layers(scorer) <= set(extractor.dims) for name in scorer.metrics)


def wanted_of(metrics: Collection[str], extractor: FeatureExtractor) -> tuple[Wanted, Wanted]:
    """What to keep of the samples (for error bars too) and of the reference to compute these metrics."""
    asked = [s for s in SCORERS if set(s.metrics) & set(metrics) and _layers(s) <= set(extractor.dims)]
    gaussians = frozenset(scorer.gaussians for scorer in asked if scorer.gaussians)
    sample_rows = frozenset(scorer.sample_rows for scorer in asked if scorer.sample_rows)
    reference_rows = frozenset(scorer.reference_rows for scorer in asked if scorer.reference_rows)
    return Wanted(gaussians=gaussians, rows=sample_rows, blocks=True), Wanted(gaussians=gaussians, rows=reference_rows)


def score(
    metrics: Collection[str],
    samples: FeatureSet,
    reference: FeatureSet,
    extractor: FeatureExtractor,
    reporter: Reporter | None = None,
    device: torch.device = CPU,
) -> Scores:
    """Compute the metrics asked for; one that can't be had is None, with the reason.

    Args:
        metrics: Names in `METRICS`.
        samples: What is scored.
        reference: What it is compared with.
        extractor: The network the features come from.
        reporter: Told of progress.
        device: Where rows are held against rows, if it knows float64 (MPS does not).

    Raises:
        DataError: If none of them can be had, or the two sets can't be compared.
    """
    working = Working(reporter=reporter or Silent(), device=CPU if device.type == "mps" else device)
    estimates: dict[str, Estimate | None] = {}
    unavailable: dict[str, str] = {}
    for scorer in SCORERS:
        asked = [name for name in scorer.metrics if name in metrics]
        if not asked:
            continue
        if reason := _lack(scorer, samples, reference, extractor):
            estimates |= dict.fromkeys(asked)
            unavailable |= dict.fromkeys(asked, reason)
            continue
        found = dict(zip(scorer.metrics, scorer.compute(samples, reference, working), strict=True))
        estimates |= {name: found[name] for name in asked}
    if len(unavailable) == len(estimates):
        raise DataError(f"nothing to score: {next(iter(unavailable.values()))}", hint="ask for other --metrics")
    return Scores(estimates=estimates, unavailable=unavailable)


def _layers(scorer: Scorer) -> set[str]:
    return {kind for kind in (scorer.gaussians, scorer.sample_rows, scorer.reference_rows) if kind}


def _lack(scorer: Scorer, samples: FeatureSet, reference: FeatureSet, extractor: FeatureExtractor) -> str | None:
    """Say what is missing for a computation; None if nothing is."""
    if missing := _layers(scorer) - set(extractor.dims):
        return f"the {extractor.name} extractor has no {missing.pop()} layer"
    for features, rows in ((samples, scorer.sample_rows), (reference, scorer.reference_rows)):
        if scorer.gaussians and scorer.gaussians not in features.gaussians:
            return f"{features.name} holds no statistics of {scorer.gaussians} features"
        if rows and rows not in features.rows:
            return f"{features.name} holds statistics only, no images"
        if rows and len(features.rows[rows]) < scorer.min_images:
            return f"{features.name} holds {len(features.rows[rows])} images, {scorer.min_images} are needed"
    return None
