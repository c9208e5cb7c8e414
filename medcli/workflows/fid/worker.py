"""The part of the other processes of a launch: they compute features, and the first one scores and speaks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medcli.runtime.reporting import Silent
from medcli.scores.scores import metrics_of, wanted_of
from medcli.workflows.fid.compare import REPORT_SUFFIX
from medcli.workflows.fid.features import load_computer
from medcli.workflows.fid.inputs import (
    SAMPLES_ROOT,
    common_reference,
    extractor_name,
    newest_sample_folder,
    survey,
    survey_reference,
)
from medcli.workflows.fid.scoring import FidRequest


def assist(request: FidRequest, sets: Sequence[Path], *, has_reference: bool = True) -> None:
    """Compute features that the first process of this launch needs and nobody has begun; they go to the cache.

    Args:
        request: What is asked for; its own `samples` is not used.
        sets: Sample sets, and perhaps reports of earlier runs; none stands for the newest sample folder.
        has_reference: Whether they are scored; else a reference is made of them.

    Raises:
        MedcliError: As the first process does, which is asked for the same.
    """
    paths = [path for path in sets if path.suffix != REPORT_SUFFIX]
    if not sets:
        paths = [newest_sample_folder(SAMPLES_ROOT)]
    if not paths:
        return
    reference = survey_reference(request.reference or common_reference(paths)) if has_reference else None
    sides = [survey(path, request.num_images) for path in paths]
    name = extractor_name(request.computing.extractor, reference, paths[0])
    computer = load_computer(request.computing, name, Silent())
    metrics = request.metrics or metrics_of(computer.extractor)
    of_samples, of_reference = wanted_of(metrics, computer.extractor)
    # In the order of the first process, so that all are at the same set at a time.
    for side, wanted in [*([(reference, of_reference)] if reference else []), *((side, of_samples) for side in sides)]:
        if source := side.images_for(wanted):
            computer.assist(source)
