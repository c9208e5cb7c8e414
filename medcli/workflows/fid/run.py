"""Score a set of images against a reference."""

from __future__ import annotations

from medcli.runtime.reporting import Reporter
from medcli.workflows.fid.inputs import SAMPLES_ROOT, common_reference, newest_sample_folder, survey, survey_reference
from medcli.workflows.fid.scoring import FidReport, FidRequest, load_yardstick, measure

__all__ = ["FidReport", "FidRequest", "score_samples"]


def score_samples(request: FidRequest, reporter: Reporter) -> FidReport:
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
