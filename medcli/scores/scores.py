"""Metrics by name: the features each needs, and its computation from two feature sets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from medcli.errors import DataError, require_complete
from medcli.runtime.reporting import Reporter, Silent
from medcli.scores.extractor import CPU, LOGITS, POOL, SPATIAL, FeatureExtractor
from medcli.scores.features import FeatureSet, Wanted
from medcli.scores.fid import factored, frechet_deviations, frechet_distance
from medcli.scores.inception_score import inception_score_estimate
from medcli.scores.kid import kernel_distance
from medcli.scores.precision_recall import NUM_NEIGHBOURS, precision_recall
from medcli.scores.recall_error import NUM_HALVES
from medcli.scores.standard_error import Estimate, num_pairs
from medcli.settings.scoring import METRICS


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeContext:
    """Device and progress reports of a computation; neither changes a score."""

    reporter: Reporter
    device: torch.device
    """Device of row-by-row comparisons; statistics are compared on the CPU."""

    def on_progress(self, unit: str) -> Callable[[int, int], None]:
        """Return a callback that reports progress in this unit."""
        return lambda done, total: self.reporter.progress(done, total, unit)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorer:
    """Computation of one or several metrics at once."""

    metrics: tuple[str, ...]
    """Names on the command line."""
    gaussians: str | None = None
    """Kind of features whose statistics it compares."""
    sample_rows: str | None = None
    """Kind of features needed of every sample."""
    reference_rows: str | None = None
    """Kind of features needed of every reference image."""
    min_images: int = 2
    """Minimum images on each side whose rows are needed."""
    compute: Callable[[FeatureSet, FeatureSet, ComputeContext], tuple[Estimate, ...]]
    """Values in the order of `metrics`, from (samples, reference)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Estimates by metric, and the reason where a requested metric has none."""

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


def _frechet(kind: str, samples: FeatureSet, reference: FeatureSet, context: ComputeContext) -> tuple[Estimate, ...]:
    gaussian, target = samples.gaussians[kind], factored(reference.gaussians[kind])
    deviations_G, blocks = None, samples.block_moments.get(kind, ())
    if blocks:
        on_progress = context.on_progress("blocks left out")
        deviations_G = frechet_deviations(
            gaussian,
            blocks,
            target,
            lambda done: on_progress(done, len(blocks)),
            num_pairs=num_pairs(len(gaussian.mean_D)),
        )
    method = f"jackknife over {len(blocks)} random blocks"
    return (Estimate.of(frechet_distance(gaussian, target), deviations_G, method),)


def _inception_score(samples: FeatureSet, _reference: FeatureSet, _context: ComputeContext) -> tuple[Estimate, ...]:
    return (inception_score_estimate(samples.rows[LOGITS]),)


def _precision_recall(samples: FeatureSet, reference: FeatureSet, context: ComputeContext) -> tuple[Estimate, ...]:
    counts = precision_recall(
        samples.rows[POOL],
        reference.rows[POOL],
        device=context.device,
        on_progress=context.on_progress("rows compared"),
    )
    return (
        Estimate.of(counts.precision, counts.precision_deviations_N, "binomial over samples"),
        Estimate.of(
            counts.recall, counts.recall_deviations_G, f"spread over {NUM_HALVES} random halves of the samples"
        ),
    )


def _kid(samples: FeatureSet, reference: FeatureSet, context: ComputeContext) -> tuple[Estimate, ...]:
    on_progress = context.on_progress("tiles of kernel values")
    return (kernel_distance(samples.rows[POOL], reference.rows[POOL], device=context.device, on_progress=on_progress),)


SCORERS = (
    Scorer(metrics=("fid",), gaussians=POOL, compute=partial(_frechet, POOL)),
    Scorer(metrics=("sfid",), gaussians=SPATIAL, compute=partial(_frechet, SPATIAL)),
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
require_complete("metric", [name for scorer in SCORERS for name in scorer.metrics], METRICS)


def metrics_of(extractor: FeatureExtractor) -> tuple[str, ...]:
    """Metrics that an extractor's layers support."""
    return tuple(name for scorer in SCORERS if _layers(scorer) <= set(extractor.dims) for name in scorer.metrics)


def wanted_of(metrics: Collection[str], extractor: FeatureExtractor) -> tuple[Wanted, Wanted]:
    """Features of the samples (error bars included) and of the reference that these metrics need."""
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
    """Compute the requested metrics; an unavailable one is None, with the reason.

    Args:
        metrics: Names in `METRICS`.
        samples: Features of the samples.
        reference: Features of the reference.
        extractor: The network that computed them.
        device: Device of row-by-row comparisons, if it supports float64 (MPS does not).

    Raises:
        DataError: If none is available, or the two sets can't be compared.
    """
    context = ComputeContext(reporter=reporter or Silent(), device=CPU if device.type == "mps" else device)
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
        found = dict(zip(scorer.metrics, scorer.compute(samples, reference, context), strict=True))
        estimates |= {name: found[name] for name in asked}
    if len(unavailable) == len(estimates):
        raise DataError(f"nothing to score: {next(iter(unavailable.values()))}", hint="ask for other --metrics")
    return Scores(estimates=estimates, unavailable=unavailable)


def _layers(scorer: Scorer) -> set[str]:
    return {kind for kind in (scorer.gaussians, scorer.sample_rows, scorer.reference_rows) if kind}


def _lack(scorer: Scorer, samples: FeatureSet, reference: FeatureSet, extractor: FeatureExtractor) -> str | None:
    """Name what a computation lacks; None if nothing."""
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
