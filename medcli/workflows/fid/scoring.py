"""Score sample sets against a reference."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medcli.errors import DataError
from medcli.runtime.json_records import json_fields
from medcli.runtime.reporting import Reporter
from medcli.scores.extractor import INCEPTION, LOGITS, POOL, FeatureExtractor
from medcli.scores.features import FeatureSet
from medcli.scores.fid import factored
from medcli.scores.fid_infinity import FEWEST_PER_FEATURE, NUM_SIZES, Extrapolation, fid_at_infinity
from medcli.scores.inception_score import BLOCK_SIZE, order_loss
from medcli.scores.protocol import PROTOCOL, protocol_details, software
from medcli.scores.scores import Scores, metrics_of, score, wanted_of
from medcli.scores.standard_error import Estimate
from medcli.settings.scoring import ScoreRequest
from medcli.workflows.fid.features import FeatureComputer, load_feature_computer
from medcli.workflows.fid.inputs import Side, SideFeatures, extractor_name, features_of

JSON_KEYS = {"is": "inception_score"}
"""JSON keys that differ from the metric's name on the command line."""
FID_INFINITY = "fid_infinity"
"""FID extrapolated to infinitely many samples, with `--extrapolate`."""
PAPERS_NUM_SAMPLES = 50_000
"""Number of samples of published ImageNet scores."""
NOTED_ORDER_LOSS = 0.02
"""Loss of the Inception Score by the order of samples above which to warn; random orders lose far less."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FidReport:
    """Scores and their provenance."""

    samples: str
    reference: str
    scores: Scores
    num_samples: int | None
    """Number of scored samples; None for a statistics file."""
    num_reference: int | None
    """Number of reference images; None for a statistics file without images."""
    extractor: str
    protocol_details: dict[str, Any]
    """Settings that affect the scores."""
    provenance: dict[str, Any]
    """Hashes of the inputs, and software versions."""
    extrapolation: Extrapolation | None = None
    """Fit behind `fid_infinity`, if requested."""

    def to_json(self) -> dict[str, Any]:
        """Return the scores and their provenance as plain JSON values."""
        line = self.extrapolation
        return {
            **{json_key(name): value for name, value in self.scores.values.items()},
            "standard_errors": {json_key(name): found.standard_error for name, found in self.scores.errors.items()},
            "standard_error_methods": {json_key(name): found.method for name, found in self.scores.errors.items()},
            "unavailable": {json_key(name): why for name, why in self.scores.unavailable.items()},
            "protocol": PROTOCOL,
            **json_fields(self, "samples", "num_samples", "reference", "num_reference", "extractor"),
            **json_fields(self, "protocol_details", "provenance"),
            **({"extrapolation": {"num_samples": line.sizes, "fid": line.distances}} if line else {}),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Yardstick:
    """Extractor, reference features and metrics, loaded once for all sample sets."""

    computer: FeatureComputer
    reference: SideFeatures
    metrics: tuple[str, ...]
    is_extrapolated: bool

    @property
    def extractor(self) -> FeatureExtractor:
        """Feature extractor."""
        return self.computer.extractor

    @property
    def protocol(self) -> dict[str, Any]:
        """Settings shared by all its scores, as returned by `compared`."""
        return {
            "protocol": PROTOCOL,
            **protocol_details(self.extractor),
            "extractor_sha256": self.extractor.weights_sha256,
            "reference_sha256": self.reference.sha256,
            "reference_images_sha256": self.reference.images_sha256,
        }


def json_key(metric: str) -> str:
    """Return the JSON key of a metric."""
    return JSON_KEYS.get(metric, metric)


def load_yardstick(
    request: ScoreRequest, reference: Side, samples: list[tuple[Path, Side]], reporter: Reporter
) -> Yardstick:
    """Load the extractor, check the request, and compute the features of the reference.

    Args:
        samples: Paths and contents of the sample sets; the first decides if nothing names the extractor.

    Raises:
        ConfigError: If the extractor is unknown or not the reference's.
        DataError: If the reference is unusable, or the samples are too few to extrapolate.
        EnvironmentProblem: If the extractor's weights or the device are missing.
    """
    name = extractor_name(request.features.extractor, reference, samples[0][0])
    computer = load_feature_computer(request.features, name, reporter)
    extractor = computer.extractor
    if request.extrapolate:
        for _, side in samples:
            _check_enough(side, extractor)
    metrics = request.metrics or metrics_of(extractor)
    _, wanted = wanted_of(metrics, extractor)
    return Yardstick(
        computer=computer,
        reference=features_of(reference, computer, wanted, reporter),
        metrics=metrics,
        is_extrapolated=request.extrapolate,
    )


def measure(yardstick: Yardstick, side: Side, reporter: Reporter) -> FidReport:
    """Score one sample set.

    Raises:
        DataError: If an image can't be read, or none of the metrics is available.
    """
    extractor, reference = yardstick.extractor, yardstick.reference
    wanted, _ = wanted_of(yardstick.metrics, extractor)
    if yardstick.is_extrapolated:
        wanted = replace(wanted, rows=wanted.rows | {POOL})
    samples = features_of(side, yardstick.computer, wanted, reporter)
    device = yardstick.computer.workers.devices[0]
    scores = score(yardstick.metrics, samples.features, reference.features, extractor, reporter, device)
    line = None
    if yardstick.is_extrapolated:
        scores, line = _extrapolated(scores, samples.features, reference.features, reporter)
    if samples.images_sha256 is not None and samples.images_sha256 == reference.images_sha256:
        reporter.warn("samples and reference are the same images: their distance is 0 by construction")
    _warn(samples.features, extractor, reporter)
    return FidReport(
        samples=side.name,
        reference=reference.features.name,
        scores=scores,
        num_samples=samples.features.num_images,
        num_reference=reference.features.num_images,
        extractor=extractor.name,
        protocol_details=protocol_details(extractor),
        provenance={
            "extractor_sha256": extractor.weights_sha256,
            "samples_sha256": samples.sha256,
            "reference_sha256": reference.sha256,
            "reference_images_sha256": reference.images_sha256,
            **software(),
        },
        extrapolation=line,
    )


def _check_enough(side: Side, extractor: FeatureExtractor) -> None:
    """Refuse too few samples to extrapolate FID, before the network runs."""
    needed = FEWEST_PER_FEATURE * extractor.dims[POOL]
    if side.statistics or side.num_images is None:
        raise DataError(f"{side.name} holds ready statistics, which can't be extrapolated", hint="score its images")
    if side.num_images < needed:
        raise DataError(
            f"{side.name}: {side.num_images} samples are too few to extrapolate FID over {extractor.dims[POOL]} "
            f"features, {needed} are needed",
            hint="score more samples, or leave out --extrapolate",
        )


def _extrapolated(
    scores: Scores, samples: FeatureSet, reference: FeatureSet, reporter: Reporter
) -> tuple[Scores, Extrapolation]:
    """Return the scores with FID at infinity after FID, and the fitted line."""
    line = fid_at_infinity(
        samples.rows[POOL],
        factored(reference.gaussians[POOL]),
        on_progress=lambda done: reporter.progress(done, NUM_SIZES, "subset sizes"),
    )
    fid = scores.estimates["fid"]
    known = fid.standard_error if fid and fid.standard_error is not None else 0.0
    # The scatter about the line leaves out the error that all subsets share, that of the samples.
    estimate = Estimate(
        value=line.value,
        standard_error=math.hypot(line.fit_error, known),
        method="scatter about the line and jackknife of fid, added in squares",
    )
    estimates = {}
    for name, found in scores.estimates.items():
        estimates[name] = found
        if name == "fid":
            estimates[FID_INFINITY] = estimate
    return replace(scores, estimates=estimates), line


def _warn(samples: FeatureSet, extractor: FeatureExtractor, reporter: Reporter) -> None:
    num, dim = samples.num_images, extractor.dims[POOL]
    if num is not None and num <= dim:
        reporter.warn(
            f"fewer samples than dimensions: FID of {num} samples with {dim} features is strongly biased "
            "upwards; compare it only with scores of as many samples"
        )
    elif num not in (None, PAPERS_NUM_SAMPLES) and extractor.name == INCEPTION:
        reporter.warn(
            f"the papers score {PAPERS_NUM_SAMPLES:,} samples, these are {num:,}: FID falls and recall rises "
            "with their number, so compare with scores of as many"
        )
    logits_NK = samples.rows.get(LOGITS)
    if logits_NK is None or len(logits_NK) <= BLOCK_SIZE:
        return
    if short := len(logits_NK) % BLOCK_SIZE:
        reporter.warn(
            f"the last block of the Inception Score holds {short:,} images, not {BLOCK_SIZE:,}, and counts as "
            f"much as a full one, which lowers the score; score {len(logits_NK) - short:,} with --num-images"
        )
    lost = order_loss(logits_NK, block_size=BLOCK_SIZE)
    if lost > NOTED_ORDER_LOSS:
        reporter.warn(
            f"the order of the samples costs {lost:.0%} of the Inception Score, as labels sorted by class do: "
            f"it is taken over blocks of {BLOCK_SIZE:,} in file order; shuffle them, or sample random labels"
        )
