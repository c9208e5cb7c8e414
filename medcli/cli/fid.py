"""`medcli fid`: score samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medcli.cli.options import MACHINE, SCORING, DeviceOpt
from medcli.cli.output import output_of, printable, table_of

if TYPE_CHECKING:
    from rich.console import Group

    from medcli.workflows.fid import FidReport

LOWER_IS_BETTER = frozenset({"fid", "sfid", "kid"})


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
        typer.Option(
            "--extractor-weights", metavar="PATH", help="Its weights; never downloaded.", rich_help_panel=SCORING
        ),
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
    device: DeviceOpt = None,
) -> None:
    """Score images against a reference: FID, sFID, Inception Score, precision, recall, KID.

    Examples:
        medcli fid
        medcli fid samples/digits-sit-dynamic-0 digits --metrics fid,kid
        medcli fid samples.npz VIRTUAL_imagenet256_labeled.npz --extractor-weights inception.pth
    """
    from medcli.workflows.fid import FidRequest, score_samples

    output = output_of(ctx)
    request = FidRequest(
        samples=samples,
        reference=reference,
        metrics=None if metrics is None else tuple(name.strip() for name in metrics.split(",")),
        extractor=extractor,
        extractor_weights=extractor_weights,
        batch_size=batch_size,
        device=device,
        num_images=num_images,
    )
    report = score_samples(request, output)
    output.result(report, _table(report))


def _table(report: FidReport) -> Group:
    from rich.console import Group
    from rich.text import Text

    rows = [
        (name, None if value is None else round(value, 4), "lower" if name in LOWER_IS_BETTER else "higher")
        for name, value in report.scores.values.items()
    ]
    remarks = [
        f"samples: {report.samples} ({_size(report.num_samples)})",
        f"reference: {report.reference} ({_size(report.num_reference)})",
        f"features: {report.extractor}" + ("" if report.extractor == "inception" else ", not the published scale"),
        *(f"no {name}: {why}" for name, why in report.scores.unavailable.items()),
    ]
    return Group(table_of(("metric", "value", "better"), rows), Text("\n".join(map(printable, remarks))))


def _size(num_images: int | None) -> str:
    return "statistics" if num_images is None else f"{num_images} images"
