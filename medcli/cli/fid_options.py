"""Arguments and options of `medcli fid`. Loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medcli.cli.options import INPUT, MACHINE, OUTPUT, SCORING

SamplesArg = Annotated[
    Path | None,
    typer.Argument(
        metavar="SAMPLES",
        help="A folder of images, a sample folder or an npz; without one, the newest folder under ./samples.",
        show_default=False,
    ),
]
ReferenceArg = Annotated[
    str | None,
    typer.Argument(
        metavar="REFERENCE",
        help="The same, an ADM reference npz, or digits; without one, what the samples' manifest names.",
        show_default=False,
    ),
]
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
MetricsOpt = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        metavar="NAME,...",
        help="Of fid, sfid, is, precision, recall, kid; all there are layers for if not given.",
        rich_help_panel=SCORING,
    ),
]
ExtractorOpt = Annotated[
    str | None,
    typer.Option(
        "--extractor",
        metavar="inception|digits",
        help="Feature network; the one the reference was made with if not given, else inception.",
        rich_help_panel=SCORING,
    ),
]
ExtractorWeightsOpt = Annotated[
    Path | None,
    typer.Option("--extractor-weights", metavar="PATH", help="Its weights.", rich_help_panel=SCORING),
]
NumImagesOpt = Annotated[
    int | None,
    typer.Option("--num-images", min=2, metavar="N", help="Score the first N samples only.", rich_help_panel=SCORING),
]
CompareOpt = Annotated[
    bool,
    typer.Option(
        "--compare",
        help="All arguments are sample sets, or reports of earlier runs (.json): one table of them.",
        rich_help_panel=SCORING,
    ),
]
BatchSizeOpt = Annotated[
    int,
    typer.Option("--batch-size", min=1, metavar="N", help="Images in one network call.", rich_help_panel=MACHINE),
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
