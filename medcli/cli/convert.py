"""`medcli convert`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from medcli.cli.options import (
    INPUT,
    OUTPUT,
    FamilyOpt,
    ForceOpt,
    HeadsOpt,
    LayersOpt,
    MediatorsOpt,
    NumClassesOpt,
    OutputOpt,
    ResOpt,
    WeightsOpt,
    choice,
    parse_ints,
)
from medcli.cli.output import output_of, printable
from medcli.settings.network import NetworkSource

if TYPE_CHECKING:
    from medcli.workflows.convert import ConvertReport, Target

SourceArg = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="An official or training .pt file, a diffusers DiT folder, or a file of ours.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]
ToOpt = Annotated[
    str,
    choice("--to", choices=("medcli", "official", "diffusers"), help="Layout of the result.", panel=OUTPUT),
]


def convert(
    ctx: typer.Context,
    source: SourceArg,
    output: OutputOpt = None,
    mediators: MediatorsOpt = None,
    layers: LayersOpt = None,
    weights: WeightsOpt = "ema",
    res: ResOpt = None,
    num_classes: NumClassesOpt = None,
    family: FamilyOpt = None,
    heads: HeadsOpt = None,
    to: ToOpt = "medcli",
    force: ForceOpt = False,
) -> None:
    """Give a DiT or SiT checkpoint a ladder of mediator counts, or another resolution or layout.

    Trained weights are taken over as they are; new ones start neutral (zero biases, zero depth-wise convolution).
    Without --mediators the ladder is 4,16,64; without --layers it goes into the first four blocks.

    Examples:
        medcli convert sit_xl.pt
        medcli convert sit_xl.pt --mediators 16,64 --layers all -o all.safetensors
        medcli convert DiT-XL-2-256x256.pt --layers none --to diffusers
    """
    from medcli.workflows.convert import ConvertRequest
    from medcli.workflows.convert import convert as run_convert

    out = output_of(ctx)
    request = ConvertRequest(
        network=NetworkSource(
            checkpoint=source,
            family=family,
            heads=heads,
            weights=weights,
            mediators=_ladder(mediators),
            layers=layers,
            res=res,
            num_classes=num_classes,
        ),
        output=output,
        to=cast("Target", to),
        force=force,
        # Hashing takes longer than copying, and only the JSON shows it.
        digest=bool(ctx.params.get("as_json")),
    )
    report = run_convert(request, out)
    out.result(report, summary(report))
    if to == "medcli":
        out.hint(f"medcli sample {shlex.quote(str(report.output))}")


def _ladder(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    return () if text == "none" else parse_ints(text)


def summary(report: ConvertReport) -> str:
    """What was written and how it differs from the source, for people."""
    from medcli.presets import preset_of

    config = report.config
    title = preset_of(config) or f"{config.family} of width {config.hidden_size} and depth {config.depth}"
    ladder = ", ".join(map(str, config.mediators))
    blocks = ", ".join(map(str, config.mediator_layers))
    attention = f"{ladder} mediators in blocks {blocks}" if ladder else "full attention in every block"
    counts = [f"{len(report.copied)} tensors copied"]
    for names, verb in ((report.resized, "resized"), (report.new, "new"), (report.dropped, "dropped")):
        counts += [f"{len(names)} {verb}"] if names else []
    return (
        f"wrote {printable(str(report.output))} ({', '.join(counts)})\n{title}, {config.resolution_px} px, {attention}"
    )
