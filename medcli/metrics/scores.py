"""The metrics by name: what each needs, and its value from two feature sets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from medcli.errors import DataError
from medcli.metrics.extractor import LOGITS, POOL, SPATIAL, FeatureExtractor
from medcli.metrics.features import FeatureSet, Wanted
from medcli.metrics.fid import frechet_distance
from medcli.metrics.inception_score import inception_score
from medcli.metrics.kid import kernel_distance
from medcli.metrics.precision_recall import NUM_NEIGHBOURS, precision_recall


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
    compute: Callable[[FeatureSet, FeatureSet], tuple[float, ...]]
    """Values in the order of `metrics`, from (samples, reference)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Values by metric, and why a metric asked for has none."""

    values: Mapping[str, float | None]
    unavailable: Mapping[str, str]


def _fid(samples: FeatureSet, reference: FeatureSet) -> tuple[float, ...]:
    return (frechet_distance(samples.gaussians[POOL], reference.gaussians[POOL]),)


def _sfid(samples: FeatureSet, reference: FeatureSet) -> tuple[float, ...]:
    return (frechet_distance(samples.gaussians[SPATIAL], reference.gaussians[SPATIAL]),)


def _inception_score(samples: FeatureSet, _reference: FeatureSet) -> tuple[float, ...]:
    return (inception_score(samples.rows[LOGITS]),)


def _precision_recall(samples: FeatureSet, reference: FeatureSet) -> tuple[float, ...]:
    counts = precision_recall(samples.rows[POOL], reference.rows[POOL])
    return counts.precision, counts.recall


def _kid(samples: FeatureSet, reference: FeatureSet) -> tuple[float, ...]:
    return (kernel_distance(samples.rows[POOL], reference.rows[POOL]),)


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
    """What to keep of the samples, and of the reference, to compute these metrics."""
    asked = [s for s in SCORERS if set(s.metrics) & set(metrics) and _layers(s) <= set(extractor.dims)]
    gaussians = frozenset(scorer.gaussians for scorer in asked if scorer.gaussians)
    sample_rows = frozenset(scorer.sample_rows for scorer in asked if scorer.sample_rows)
    reference_rows = frozenset(scorer.reference_rows for scorer in asked if scorer.reference_rows)
    return Wanted(gaussians=gaussians, rows=sample_rows), Wanted(gaussians=gaussians, rows=reference_rows)


def score(metrics: Collection[str], samples: FeatureSet, reference: FeatureSet, extractor: FeatureExtractor) -> Scores:
    """Compute the metrics asked for; one that can't be had is None, with the reason.

    Raises:
        DataError: If none of them can be had, or the two sets can't be compared.
    """
    values: dict[str, float | None] = {}
    unavailable: dict[str, str] = {}
    for scorer in SCORERS:
        asked = [name for name in scorer.metrics if name in metrics]
        if not asked:
            continue
        reason = _lack(scorer, samples, reference, extractor)
        found = (
            dict.fromkeys(scorer.metrics)
            if reason
            else dict(zip(scorer.metrics, scorer.compute(samples, reference), strict=True))
        )
        values |= {name: found[name] for name in asked}
        unavailable |= dict.fromkeys(asked, reason) if reason else {}
    if len(unavailable) == len(values):
        raise DataError(f"nothing to score: {next(iter(unavailable.values()))}", hint="ask for other --metrics")
    return Scores(values=values, unavailable=unavailable)


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
