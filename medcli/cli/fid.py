"""`medcli fid`: score samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from medcli.cli import fid_options as own
from medcli.cli.output import Output, output_of
from medcli.errors import ConfigError

if TYPE_CHECKING:
    from medcli.workflows.fid.scoring import FidRequest


def fid(
    ctx: typer.Context,
    samples: own.SamplesArg = None,
    reference: own.ReferenceArg = None,
    more: own.MoreArg = None,
    reference_option: own.ReferenceOpt = None,
    metrics: own.MetricsOpt = None,
    extractor: own.ExtractorOpt = None,
    extractor_weights: own.ExtractorWeightsOpt = None,
    num_images: own.NumImagesOpt = None,
    batch_size: own.BatchSizeOpt = 64,
    device: own.DevicesOpt = None,
    workers: own.WorkersOpt = None,
    cache_dir: own.CacheDirOpt = None,
    no_cache: own.NoCacheOpt = False,
    download: own.DownloadOpt = False,
    extrapolate: own.ExtrapolateOpt = False,
    compare: own.CompareOpt = False,
    write_reference: own.WriteReferenceOpt = None,
    reference_images: own.ReferenceImagesOpt = None,
    markdown: own.MarkdownOpt = False,
    force: own.ForceOpt = False,
) -> None:
    """Score images against a reference: FID, sFID, Inception Score, precision, recall, KID, with standard errors.

    Examples:
        medcli fid
        medcli fid samples.npz VIRTUAL_imagenet256_labeled.npz --extractor-weights inception.pth
        medcli fid --compare samples/a samples/b earlier.json
    """
    from medcli.runtime.cache_folder import default_cache_folder
    from medcli.runtime.processes import this_process
    from medcli.workflows.fid.features import FeatureOptions
    from medcli.workflows.fid.run import assist
    from medcli.workflows.fid.scoring import FidRequest

    output = output_of(ctx)
    request = FidRequest(
        samples=samples,
        reference=_one_reference(reference, reference_option, is_compared=compare),
        metrics=None if metrics is None else tuple(name.strip() for name in metrics.split(",")),
        num_images=num_images,
        extrapolate=extrapolate,
        features=FeatureOptions(
            extractor=extractor,
            extractor_weights=extractor_weights,
            download=download,
            batch_size=batch_size,
            device=device,
            num_workers=workers,
            cache_folder=None if no_cache else cache_dir or default_cache_folder(),
        ),
    )
    _refuse_contradictions(ctx.params, request)
    sets = [path for path in (samples, Path(reference) if compare and reference else None, *(more or ())) if path]
    if not this_process().is_first:
        assist(request, sets, has_reference=write_reference is None)
    elif write_reference is not None:
        _write(output, request, write_reference, reference_images, force=force)
    elif compare:
        _compare(output, request, sets, force=force, as_markdown=markdown)
    else:
        _score(output, request, as_markdown=markdown)


def _one_reference(second: str | None, option: str | None, *, is_compared: bool) -> str | None:
    """The reference from its argument or its option; with --compare, arguments are sample sets."""
    if is_compared or second is None:
        return option
    if option is not None:
        raise ConfigError(f"two references: {second} and --reference {option}", hint="name one")
    return second


def _refuse_contradictions(given: Mapping[str, Any], request: FidRequest) -> None:
    """Refuse what has no meaning for what is asked: a reference, a comparison or the scores of one set."""
    if given["write_reference"] is None:
        if given["reference_images"] is not None:
            raise ConfigError("--reference-images goes with --write-reference", hint="add --write-reference PATH")
        if given["more"] and not given["compare"]:
            raise ConfigError(
                f"unexpected {given['more'][0]} after SAMPLES and REFERENCE",
                hint="to score several sets, add --compare",
            )
        return
    idle = {f"--{name}": given[name] for name in ("compare", "metrics", "extrapolate", "markdown")}
    for flag, value in {"REFERENCE": request.reference, **idle}.items():
        if value:
            raise ConfigError(
                f"--write-reference makes a reference and scores nothing: {flag} does not go with it",
                hint="medcli fid IMAGES --write-reference PATH, then medcli fid SAMPLES PATH",
            )


def _score(output: Output, request: FidRequest, *, as_markdown: bool) -> None:
    from medcli.cli.fid_table import markdown, score_table
    from medcli.workflows.fid.run import score_samples

    report = score_samples(request, output)
    output.result(report, markdown([report.to_json()]) if as_markdown else score_table(report))


def _compare(output: Output, request: FidRequest, sets: list[Path], *, force: bool, as_markdown: bool) -> None:
    from medcli.cli.fid_table import comparison_table, markdown
    from medcli.workflows.fid.compare import CompareRequest, compare_samples

    report = compare_samples(CompareRequest(sets=tuple(sets), common=request, force=force), output)
    output.result(report, markdown(report.rows) if as_markdown else comparison_table(report))


def _write(output: Output, request: FidRequest, target: Path, num_stored: int | None, *, force: bool) -> None:
    from medcli.workflows.fid.reference import NUM_REFERENCE_IMAGES, ReferenceRequest, write_reference

    if request.samples is None:
        raise ConfigError("--write-reference needs images", hint="medcli fid IMAGES --write-reference PATH")
    made = ReferenceRequest(
        images=request.samples,
        output=target,
        num_reference_images=NUM_REFERENCE_IMAGES if num_stored is None else num_stored,
        num_images=request.num_images,
        features=request.features,
        force=force,
    )
    report = write_reference(made, output)
    written = f"wrote {report.output}: {', '.join(report.keys)} of {report.num_images} images, {report.extractor}"
    output.result(report, written)
    output.hint(f"medcli fid SAMPLES {report.output}")
