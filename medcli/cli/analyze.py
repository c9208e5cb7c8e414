"""`medcli analyze`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from medcli.cli import options
from medcli.cli import sampling_options as sampling
from medcli.cli.heat_map import heat_map
from medcli.cli.output import output_of, printable, table_of
from medcli.schedule.spec import DEFAULT_WARMUP_STEPS

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from medcli.workflows.analyze.report import AnalyzeReport, AttentionFindings
    from medcli.workflows.analyze.suggestion import Suggestion

ANALYSIS = "Analysis"

NumImagesOpt = Annotated[
    int,
    typer.Option("--num-images", min=2, metavar="N", help="Images to look at.", rich_help_panel=options.SAMPLING),
]
PointsOpt = Annotated[
    int | None,
    typer.Option(
        "--points",
        min=1,
        metavar="N",
        help="Solver steps at which attention is scored, spread over the way; 20 if not given.",
        rich_help_panel=ANALYSIS,
    ),
]
PairsOpt = Annotated[
    int | None,
    typer.Option(
        "--pairs",
        min=1,
        metavar="N",
        help="Pairs of queries compared in each head; 32640 if not given, which is all of 256 tokens.",
        rich_help_panel=ANALYSIS,
    ),
]
AttentionOpt = Annotated[
    bool,
    typer.Option(
        "--attention/--no-attention",
        help="Score attention, or look at the latents' change alone.",
        rich_help_panel=ANALYSIS,
    ),
]
RhoOpt = Annotated[
    str | None,
    typer.Option(
        "--rho",
        metavar="R,...",
        help="Thresholds to try; 0.9 to 0.05 if not given.",
        rich_help_panel=ANALYSIS,
    ),
]
WarmupStepsOpt = Annotated[
    int,
    typer.Option(
        "--warmup-steps", min=1, metavar="N", help="First distances that set their scale.", rich_help_panel=ANALYSIS
    ),
]
MAP_CAPTION = "layers by progress: divergence between queries in % of ln 2; low is redundant"


def analyze(
    ctx: typer.Context,
    checkpoint: options.OptionalCheckpointArg = None,
    family: options.FamilyOpt = None,
    heads: options.HeadsOpt = None,
    weights: options.WeightsOpt = "ema",
    num_images: NumImagesOpt = 32,
    classes: sampling.ClassesOpt = "all",
    label_sampling: sampling.LabelSamplingOpt = "equal",
    seed: options.SeedOpt = 0,
    steps: sampling.StepsOpt = None,
    sampler: sampling.SamplerOpt = None,
    solver: sampling.SolverOpt = None,
    path: sampling.PathOpt = None,
    prediction: sampling.PredictionOpt = None,
    diffusion_form: sampling.DiffusionFormOpt = None,
    diffusion_norm: sampling.DiffusionNormOpt = None,
    last_step: sampling.LastStepOpt = None,
    last_step_size: sampling.LastStepSizeOpt = None,
    cfg_scale: sampling.CfgScaleOpt = None,
    cfg_channels: sampling.CfgChannelsOpt = None,
    cfg_interval: sampling.CfgIntervalOpt = None,
    points: PointsOpt = None,
    pairs: PairsOpt = None,
    attention: AttentionOpt = True,
    rho: RhoOpt = None,
    warmup_steps: WarmupStepsOpt = DEFAULT_WARMUP_STEPS,
    batch_size: options.BatchSizeOpt = None,
    device: options.DeviceOpt = None,
    dtype: options.DtypeOpt = "fp32",
    output: options.OutputOpt = None,
    force: options.ForceOpt = False,
) -> None:
    """Show how redundant attention is, layer by layer, and what thresholds would do.

    Samples with full attention, looking on; the images are not kept. Writes analysis.json and two pictures.

    Examples:
        medcli analyze
        medcli analyze sit_xl.pt --num-images 4 --points 10 -o analysis/xl
        medcli analyze --no-attention --num-images 100 --rho 0.5,0.3,0.1
    """
    from medcli.workflows.analyze.run import DEFAULT_PAIRS, DEFAULT_POINTS, DEFAULT_RHO, AnalyzeRequest
    from medcli.workflows.analyze.run import analyze as run

    request = AnalyzeRequest(
        sampling=sampling.sampling_request(ctx.params, schedule="full", rho=None, warmup_steps=None),
        points=DEFAULT_POINTS if points is None else points,
        max_pairs=DEFAULT_PAIRS if pairs is None else pairs,
        attention=attention,
        rho=DEFAULT_RHO if rho is None else options.parse_floats(rho),
        warmup_steps=warmup_steps,
        force=force,
    )
    out = output_of(ctx)
    report = run(request, out)
    out.result(report, summary(report))
    if report.convert:
        out.hint(report.convert)


def summary(report: AnalyzeReport) -> Group:
    """What a person sees: the map, what was found, what is suggested, and what thresholds would do."""
    from rich.console import Group
    from rich.text import Text

    parts = [] if report.attention is None else _attention(report.attention)
    where = f"wrote {printable(report.output)} ({printable(report.model)}, {report.num_images} images)"
    return Group(Text(where), *parts, threshold_table(report))


def _attention(found: AttentionFindings) -> list[Text]:
    from rich.text import Text

    percents = (100 * found.seen.redundancy_DL / math.log(2)).tolist()
    labels = [f"layer {layer}" for layer in range(len(percents))]
    claims = {"redundant_early": "redundant early", "falls_with_progress": "redundancy falls with progress"}
    lines = [
        f"{claims[name]}: {'yes' if seen.holds else 'no'}. {seen.text}" for name, seen in found.observations.items()
    ]
    lines.append(advice_line(found.suggestion))
    drawn = f" Pairs were drawn: at most {found.pair_error:.1g} nats of error an image and head."
    return [
        Text(),
        heat_map(percents, labels, ("0 noise", "1 image")),
        Text(MAP_CAPTION + "." + ("" if found.is_exact else drawn)),
        *(Text(f"\n{line}") for line in lines),
    ]


def advice_line(advice: Suggestion) -> str:
    """The suggestion in a line."""
    from medcli.workflows.analyze.attention import layer_words

    if not advice.layers:
        return f"suggestion: no mediators: {advice.reason}"
    counts = ",".join(map(str, advice.mediators))
    savings = " to ".join(f"{saving:.1f}" for saving in sorted({advice.saving_percent[-1], advice.saving_percent[0]}))
    return (
        f"suggestion: {layer_words(advice.layers)} with mediators {counts}, saving {savings} % of the multiply-adds: "
        f"{advice.reason}"
    )


def threshold_table(report: AnalyzeReport) -> Table:
    """A row for each threshold: how many images it moves, and at which solver steps."""
    columns = ["rho"]
    cells: list[list[object]] = [[f"{trigger.rho:g}"] for trigger in next(iter(report.triggers.values()))]
    for name, found in report.triggers.items():
        columns += [f"{name.upper()}: images %", "5 %", "median", "95 %"]
        for row, trigger in zip(cells, found, strict=True):
            row += [f"{100 * trigger.share:.0f}", *(trigger.quantile(level) for level in (0.05, 0.5, 0.95))]
    caption = (
        f"solver step, of {report.num_steps}, by which 5, 50 and 95 % of the images would have moved up the ladder;\n"
        f"warm-up of {report.warmup_steps} steps; - where fewer images ever move"
    )
    return table_of(columns, cells, caption=caption)
