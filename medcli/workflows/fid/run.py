"""Score a set of images against a reference, in rank 0 of a launch and in the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medcli.runtime.reporting import Reporter, Silent
from medcli.scores.scores import metrics_of, wanted_of
from medcli.settings.scoring import ScoreRequest
from medcli.workflows.fid.compare import REPORT_SUFFIX
from medcli.workflows.fid.features import load_feature_computer
from medcli.workflows.fid.inputs import (
    SAMPLES_ROOT,
    common_reference,
    extractor_name,
    newest_sample_folder,
    survey,
    survey_reference,
)
from medcli.workflows.fid.scoring import FidReport, load_yardstick, measure

__all__ = ["FidReport", "assist", "score_samples"]


def score_samples(request: ScoreRequest, reporter: Reporter) -> FidReport:
    """Score samples against a reference: all that is cheap to check first, then one pass over each set.

    Raises:
        ConfigError: If a metric or extractor is unknown, or the extractor is not the reference's.
        DataError: If the samples or the reference are missing or unusable.
        EnvironmentProblem: If the extractor's weights or the device are missing.
    """
    samples_path = request.samples or newest_sample_folder(SAMPLES_ROOT)
    samples = survey(samples_path, request.num_images)
    reference = survey_reference(request.reference or common_reference([samples_path]))
    yardstick = load_yardstick(request, reference, [(samples_path, samples)], reporter)
    return measure(yardstick, samples, reporter)


def assist(request: ScoreRequest, sets: Sequence[Path], *, has_reference: bool = True) -> None:
    """Compute features that rank 0 of this launch needs and no process has claimed; they go to the cache.

    Args:
        request: Options; its `samples` are not used.
        sets: Sample sets and reports of earlier runs; empty: the newest sample folder.
        has_reference: Score them; else a reference is made of them.

    Raises:
        MedcliError: As rank 0 does, which has the same request.
    """
    paths = [path for path in sets if path.suffix.lower() != REPORT_SUFFIX]
    if not sets:
        paths = [newest_sample_folder(SAMPLES_ROOT)]
    if not paths:
        return
    reference = survey_reference(request.reference or common_reference(paths)) if has_reference else None
    sides = [survey(path, request.num_images) for path in paths]
    name = extractor_name(request.features.extractor, reference, paths[0])
    computer = load_feature_computer(request.features, name, Silent())
    metrics = request.metrics or metrics_of(computer.extractor)
    of_samples, of_reference = wanted_of(metrics, computer.extractor)
    # In the order of rank 0, so that all work on the same set at a time.
    for side, wanted in [*([(reference, of_reference)] if reference else []), *((side, of_samples) for side in sides)]:
        if source := side.images_for(wanted):
            computer.assist(source)
