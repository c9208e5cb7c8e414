"""`medcli sample`."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medcli.cli import amm_options, options
from medcli.cli import sampling_options as sampling
from medcli.cli.output import output_of, printable, table_of
from medcli.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from medcli.workflows.sample.run import SampleReport

StageOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--stage",
        metavar="N=PATH",
        help="A checkpoint trained for N mediators, instead of CHECKPOINT; once for each.",
        rich_help_panel=options.INPUT,
        show_default=False,
    ),
]
NumImagesOpt = Annotated[
    int,
    typer.Option(
        "--num-images", min=1, metavar="N", help="Images the folder shall hold.", rich_help_panel=options.SAMPLING
    ),
]
NpzOpt = Annotated[
    bool, typer.Option("--npz", help="Also write samples.npz, for scoring suites.", rich_help_panel=options.OUTPUT)
]
COSTS = "GMACs as the papers count them; done: without the queries and keys this run never computed"
SHADES = " .:-=+*#"
HISTOGRAM_BINS = 32


def sample(
    ctx: typer.Context,
    checkpoint: options.OptionalCheckpointArg = None,
    stage: StageOpt = None,
    family: options.FamilyOpt = None,
    heads: options.HeadsOpt = None,
    weights: options.WeightsOpt = "ema",
    vae: sampling.VaeOpt = None,
    schedule: options.ScheduleOpt = None,
    mediators: options.MediatorsOpt = None,
    rho: options.RhoOpt = None,
    warmup_steps: options.WarmupStepsOpt = None,
    distance: options.DistanceOpt = None,
    num_images: NumImagesOpt = 16,
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
    cfg_power: sampling.CfgPowerOpt = None,
    amm: amm_options.AmmOpt = None,
    amm_blocks: amm_options.AmmBlocksOpt = None,
    amm_form: amm_options.AmmFormOpt = None,
    batch_size: options.BatchSizeOpt = None,
    device: options.DeviceOpt = None,
    dtype: options.DtypeOpt = "fp32",
    compiled: options.CompileOpt = False,
    output: options.OutputOpt = None,
    npz: NpzOpt = False,
) -> None:
    """Make images, with mediators that step up as each image calms down.

    The same command again finishes what is missing.

    Examples:
        medcli sample --schedule dynamic --rho 0.3,0.1
        medcli sample --classes 3,5,8 --num-images 24 -o digits
        medcli sample --schedule full --cfg-scale 1 --npz
    """
    from medcli.runtime.processes import this_process
    from medcli.workflows.sample.run import sample as run

    request = sampling.sampling_request(
        ctx.params,
        stages=parse_stages(stage) if stage else None,
        amm=amm_options.parse_amm(amm, amm_blocks, amm_form),
    )
    out = output_of(ctx)
    report = run(request, out)
    if this_process().is_first:
        out.result(report, summary(report))
        out.hint(f"medcli fid {report.output}")


def parse_stages(words: list[str]) -> dict[int, Path]:
    """Read `4=a.safetensors` words.

    Raises:
        ConfigError: If a word is not of that form or names a count twice.
    """
    stages: dict[int, Path] = {}
    for word in words:
        count, equals, path = word.partition("=")
        if not equals or not count.strip().isdecimal() or not path:
            raise ConfigError(f"--stage {word!r} is not N=PATH", hint="write it like --stage 4=a.safetensors")
        if int(count) in stages:
            raise ConfigError(f"--stage names {int(count)} mediators twice", hint="give one checkpoint a count")
        stages[int(count)] = Path(path)
    return stages


def summary(report: SampleReport) -> Group:
    """What a person sees: the totals, and when images moved up the ladder."""
    from rich.console import Group
    from rich.text import Text

    # Added to 0, a rounded -0.0 loses its sign.
    saving = f"{round(100 * (1 - report.gmacs_per_image / report.gmacs_dense), 1) + 0:.1f}"
    rate = "-" if report.images_per_sec is None else f"{report.images_per_sec:.2f}"
    gmacs = (report.gmacs_per_image, report.gmacs_done_per_image, report.gmacs_dense)
    costs = (f"{report.nfe:g}", *(f"{cost:.4g}" for cost in gmacs), saving, rate)
    columns = ("images", "new", "calls an image", "GMACs an image", "done", "if dense", "saved %", "images/s")
    caption = COSTS if report.amm is None else f"{COSTS}\n{amm_options.in_words(report.amm)}"
    totals = table_of(columns, [(report.num_images, report.num_new, *costs)], caption=caption)
    where = Text(f"wrote {printable(report.output)}")
    return Group(where, totals, switch_table(report)) if len(report.counts) > 1 else Group(where, totals)


def switch_table(report: SampleReport) -> Table:
    """A row for each move along the ladder: how many images made it, and at which solver steps."""
    rows: list[tuple[object, ...]] = []
    for move, (before, after) in enumerate(pairwise(report.counts)):
        steps = [made[move] for made in report.switch_steps if len(made) > move]
        share = f"{len(steps)} of {report.num_images}"
        if steps:
            mean = f"{sum(steps) / len(steps):.1f}"
            rows.append((f"{before} to {after}", share, mean, min(steps), max(steps), shade(steps, report.num_steps)))
        else:
            rows.append((f"{before} to {after}", share, None, None, None, ""))
    return table_of(("mediators", "images", "mean step", "first", "last", f"steps 0 to {report.num_steps - 1}"), rows)


def shade(steps: list[int], num_steps: int) -> str:
    """A histogram in one line: the darker a place, the more images moved at those steps.

    Args:
        steps: When they did, in 0..num_steps - 1.
        num_steps: Solver steps of an image.
    """
    width = min(num_steps, HISTOGRAM_BINS)
    bins = [0] * width
    for step in steps:
        bins[step * width // num_steps] += 1
    top = max(bins)
    # Rounded up, so that a single image shows.
    line = "".join(SHADES[-(-count * (len(SHADES) - 1) // top)] for count in bins)
    return f"|{line}|"
