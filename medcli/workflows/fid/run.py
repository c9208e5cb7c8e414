"""Score image sets, compare them or make a reference of one, in rank 0 of a launch and in the other processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medcli.errors import ConfigError
from medcli.runtime.processes import this_process
from medcli.runtime.reporting import Reporter, Silent
from medcli.scores.scores import metrics_of, wanted_of
from medcli.settings.scoring import FidRequest, ScoreRequest
from medcli.workflows.fid.compare import REPORT_SUFFIX, CompareReport, compare_samples
from medcli.workflows.fid.drawing import drawn_samples
from medcli.workflows.fid.features import load_feature_computer
from medcli.workflows.fid.inputs import (
    SAMPLES_ROOT,
    common_reference,
    extractor_name,
    newest_sample_folder,
    survey,
    survey_reference,
)
from medcli.workflows.fid.kept import keep_scores
from medcli.workflows.fid.reference import ReferenceReport, write_reference
from medcli.workflows.fid.scoring import FidReport, load_yardstick, measure
from medcli.workflows.fid.train_extractor import ExtractorReport, train_extractor

Report = FidReport | CompareReport | ReferenceReport | ExtractorReport


def fid(request: FidRequest, reporter: Reporter) -> Report | None:
    """Do what the request asks for; None in all processes of a launch but rank 0, which they assist.

    Raises:
        MedcliError: As `score_samples`, `compare_samples` and `write_reference` do.
    """
    if request.train_extractor is not None:
        return train_extractor(request, reporter) if this_process().is_first else None
    first, second = request.score.samples, request.score.reference
    if request.more and not request.compare:
        raise ConfigError(
            f"unexpected {request.more[0]} after SAMPLES and REFERENCE", hint="to score several sets, add --compare"
        )
    score = replace(request.score, reference=_reference_of(request))
    sets = [path for path in (first, Path(second) if request.compare and second else None, *request.more) if path]
    if request.write_reference is None:
        sets = [drawn_samples(path, score, reporter) for path in sets]
        score = replace(score, samples=sets[0] if sets else None)
    if not this_process().is_first:
        assist(score, sets, has_reference=request.write_reference is None)
        return None
    if request.write_reference is not None:
        return write_reference(request, reporter)
    report: FidReport | CompareReport
    if request.compare:
        report = compare_samples(sets, score, reporter, force=request.force)
        rows = [row for row in report.rows if Path(row["samples"]) in sets]  # the others are of earlier runs
    else:
        report = score_samples(score, reporter)
        rows = [report.to_json()]
    for row in rows:
        keep_scores(row, reporter)
    return report


def _reference_of(request: FidRequest) -> str | None:
    """Return the reference from its argument or its option; with --compare, arguments are sample sets."""
    second, option = request.score.reference, request.named_reference
    if request.compare or second is None:
        return option
    if option is not None:
        raise ConfigError(f"two references: {second} and --reference {option}", hint="name one")
    return second


def score_samples(request: ScoreRequest, reporter: Reporter) -> FidReport:
    """Score samples against a reference: all that is cheap to check first, then one pass over each set.

    Raises:
        ConfigError: If a metric or extractor is unknown, or the extractor is not the reference's.
        DataError: If the samples or the reference are missing or unusable.
        EnvironmentProblem: If the extractor's weights or the device are missing.
    """
    samples_path = request.samples or newest_sample_folder(SAMPLES_ROOT)
    samples = survey(samples_path, request.num_images, request.seed)
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
    sides = [survey(path, request.num_images, request.seed) for path in paths]
    name = extractor_name(request.features.extractor, reference, paths[0])
    computer = load_feature_computer(request.features, name, Silent())
    metrics = request.metrics or metrics_of(computer.extractor)
    of_samples, of_reference = wanted_of(metrics, computer.extractor)
    # In the order of rank 0, so that all work on the same set at a time.
    for side, wanted in [*([(reference, of_reference)] if reference else []), *((side, of_samples) for side in sides)]:
        if source := side.images_for(wanted):
            computer.assist(source)
