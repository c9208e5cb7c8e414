"""`medcli fid`: score samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medcli.cli.options import INPUT, MACHINE, OUTPUT, SCORING
from medcli.cli.output import Output, output_of
from medcli.errors import ConfigError

if TYPE_CHECKING:
    from medcli.workflows.fid.scoring import FidRequest

MoreArg = Annotated[
    list[Path] | None,
    typer.Argument(metavar="MORE", help="Further sample sets, with --compare.", show_default=False),
]
ReferenceOpt = Annotated[
    str | None,
    typer.Option(
        "--reference",
        metavar="REFERENCE",
        help="The reference, as REFERENCE above; the way to name it with --compare.",
        rich_help_panel=INPUT,
    ),
]
CompareOpt = Annotated[
    bool,
    typer.Option(
        "--compare",
        help="All arguments are sample sets, or reports of earlier runs (.json): one table of them.",
        rich_help_panel=SCORING,
    ),
]
DevicesOpt = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME,...",
        help="cpu, cuda, mps, or several as in cuda:0,1; the best there is if not given.",
        rich_help_panel=MACHINE,
    ),
]
WorkersOpt = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, metavar="N", help="Processes; one a device if not given.", rich_help_panel=MACHINE
    ),
]
CacheDirOpt = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir",
        metavar="DIR",
        help="Where features are kept; $MEDCLI_CACHE or ~/.cache/medcli/features if not given.",
        rich_help_panel=MACHINE,
    ),
]
NoCacheOpt = Annotated[
    bool, typer.Option("--no-cache", help="Neither keep features nor look for kept ones.", rich_help_panel=MACHINE)
]
DownloadOpt = Annotated[
    bool,
    typer.Option(
        "--download", help="Fetch the Inception weights (96 MB) if they are missing.", rich_help_panel=MACHINE
    ),
]
ExtrapolateOpt = Annotated[
    bool,
    typer.Option("--extrapolate", help="Also estimate FID of infinitely many samples.", rich_help_panel=SCORING),
]
WriteReferenceOpt = Annotated[
    Path | None,
    typer.Option(
        "--write-reference",
        metavar="PATH",
        help="Make a reference .npz of SAMPLES instead of scoring them.",
        rich_help_panel=OUTPUT,
    ),
]
ReferenceImagesOpt = Annotated[
    int | None,
    typer.Option(
        "--reference-images",
        min=0,
        metavar="N",
        help="Images to store in it, 10000 if not given; 0 stores statistics alone.",
        rich_help_panel=OUTPUT,
    ),
]
MarkdownOpt = Annotated[
    bool, typer.Option("--markdown", help="Show the scores as a Markdown table.", rich_help_panel=OUTPUT)
]
ForceOpt = Annotated[
    bool,
    typer.Option(
        "-f",
        "--force",
        help="Compare scores whose protocols differ; replace an existing reference file.",
        rich_help_panel=OUTPUT,
    ),
]


def fid(
    ctx: typer.Context,
    samples: Annotated[
        Path | None,
        typer.Argument(
            metavar="SAMPLES",
            help="A folder of images, a sample folder or an npz; without one, the newest folder under ./samples.",
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Argument(
            metavar="REFERENCE",
            help="The same, an ADM reference npz, or digits; without one, what the samples' manifest names.",
            show_default=False,
        ),
    ] = None,
    more: MoreArg = None,
    reference_option: ReferenceOpt = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            metavar="NAME,...",
            help="Of fid, sfid, is, precision, recall, kid; all there are layers for if not given.",
            rich_help_panel=SCORING,
        ),
    ] = None,
    extractor: Annotated[
        str | None,
        typer.Option(
            "--extractor",
            metavar="inception|digits",
            help="Feature network; the one the reference was made with if not given, else inception.",
            rich_help_panel=SCORING,
        ),
    ] = None,
    extractor_weights: Annotated[
        Path | None,
        typer.Option("--extractor-weights", metavar="PATH", help="Its weights.", rich_help_panel=SCORING),
    ] = None,
    num_images: Annotated[
        int | None,
        typer.Option(
            "--num-images", min=2, metavar="N", help="Score the first N samples only.", rich_help_panel=SCORING
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option("--batch-size", min=1, metavar="N", help="Images in one network call.", rich_help_panel=MACHINE),
    ] = 64,
    device: DevicesOpt = None,
    workers: WorkersOpt = None,
    cache_dir: CacheDirOpt = None,
    no_cache: NoCacheOpt = False,
    download: DownloadOpt = False,
    extrapolate: ExtrapolateOpt = False,
    compare: CompareOpt = False,
    write_reference: WriteReferenceOpt = None,
    reference_images: ReferenceImagesOpt = None,
    markdown: MarkdownOpt = False,
    force: ForceOpt = False,
) -> None:
    """Score images against a reference: FID, sFID, Inception Score, precision, recall, KID, with standard errors.

    Examples:
        medcli fid
        medcli fid samples.npz VIRTUAL_imagenet256_labeled.npz --extractor-weights inception.pth
        medcli fid --compare samples/a samples/b earlier.json
    """
    from medcli.runtime.cache_folder import default_cache_folder
    from medcli.runtime.processes import this_process
    from medcli.workflows.fid.assisting import assist
    from medcli.workflows.fid.computing import Computing
    from medcli.workflows.fid.scoring import FidRequest

    output = output_of(ctx)
    request = FidRequest(
        samples=samples,
        reference=_one_reference(reference, reference_option, is_compared=compare),
        metrics=None if metrics is None else tuple(name.strip() for name in metrics.split(",")),
        num_images=num_images,
        extrapolate=extrapolate,
        computing=Computing(
            extractor=extractor,
            extractor_weights=extractor_weights,
            download=download,
            batch_size=batch_size,
            device=device,
            num_workers=workers,
            cache_folder=None if no_cache else cache_dir or default_cache_folder(),
        ),
    )
    if write_reference is None and reference_images is not None:
        raise ConfigError("--reference-images goes with --write-reference", hint="add --write-reference PATH")
    if write_reference is not None:
        scoring = {"REFERENCE": request.reference, "--compare": compare, "--metrics": metrics}
        _refuse_with_write({**scoring, "--extrapolate": extrapolate, "--markdown": markdown})
    elif not compare:
        _refuse_more(more)
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


def _refuse_more(more: list[Path] | None) -> None:
    if more:
        raise ConfigError(
            f"unexpected {more[0]} after SAMPLES and REFERENCE", hint="to score several sets, add --compare"
        )


def _refuse_with_write(given: dict[str, object]) -> None:
    for flag, value in given.items():
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
        computing=request.computing,
        force=force,
    )
    report = write_reference(made, output)
    written = f"wrote {report.output}: {', '.join(report.keys)} of {report.num_images} images, {report.extractor}"
    output.result(report, written)
    output.hint(f"medcli fid SAMPLES {report.output}")
