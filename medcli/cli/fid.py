"""`medcli fid`: score samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medcli.cli.command import Command
from medcli.cli.output import Output
from medcli.errors import ConfigError
from medcli.settings.scoring import FidRequest, ScoreRequest


def fid(request: FidRequest, out: Output) -> None:
    """Run `medcli fid`."""
    from medcli.runtime.processes import this_process
    from medcli.workflows.fid.run import assist

    first, second = request.score.samples, request.score.reference
    if request.more and not request.compare:
        raise ConfigError(
            f"unexpected {request.more[0]} after SAMPLES and REFERENCE", hint="to score several sets, add --compare"
        )
    score = replace(request.score, reference=_one_reference(request))
    sets = [path for path in (first, Path(second) if request.compare and second else None, *request.more) if path]
    if not this_process().is_first:
        assist(score, sets, has_reference=request.write_reference is None)
    elif request.write_reference is not None:
        _write(request, out)
    elif request.compare:
        _compare(score, sets, request, out)
    else:
        _score(score, request, out)


COMMAND = Command(
    request=FidRequest,
    run=fid,
    examples=(
        "medcli fid",
        "medcli fid samples.npz VIRTUAL_imagenet256_labeled.npz --extractor-weights inception.pth",
        "medcli fid --compare samples/a samples/b earlier.json",
    ),
)


def _one_reference(request: FidRequest) -> str | None:
    """Return the reference from its argument or its option; with --compare, arguments are sample sets."""
    second, option = request.score.reference, request.named_reference
    if request.compare or second is None:
        return option
    if option is not None:
        raise ConfigError(f"two references: {second} and --reference {option}", hint="name one")
    return second


def _score(score: ScoreRequest, request: FidRequest, out: Output) -> None:
    from medcli.cli.fid_table import markdown, score_table
    from medcli.workflows.fid.run import score_samples

    report = score_samples(score, out)
    out.result(report, markdown([report.to_json()]) if request.markdown else score_table(report))


def _compare(score: ScoreRequest, sets: list[Path], request: FidRequest, out: Output) -> None:
    from medcli.cli.fid_table import comparison_table, markdown
    from medcli.workflows.fid.compare import CompareRequest, compare_samples

    report = compare_samples(CompareRequest(sets=tuple(sets), common=score, force=request.force), out)
    out.result(report, markdown(report.rows) if request.markdown else comparison_table(report))


def _write(request: FidRequest, out: Output) -> None:
    from medcli.workflows.fid.reference import NUM_REFERENCE_IMAGES, ReferenceRequest, write_reference

    score, target, num_stored = request.score, request.write_reference, request.reference_images
    if score.samples is None or target is None:
        raise ConfigError("--write-reference needs images", hint="medcli fid IMAGES --write-reference PATH")
    wanted = ReferenceRequest(
        images=score.samples,
        output=target,
        num_reference_images=NUM_REFERENCE_IMAGES if num_stored is None else num_stored,
        num_images=score.num_images,
        features=score.features,
        force=request.force,
    )
    report = write_reference(wanted, out)
    written = f"wrote {report.output}: {', '.join(report.keys)} of {report.num_images} images, {report.extractor}"
    out.result(report, written)
    out.hint(f"medcli fid SAMPLES {report.output}")
