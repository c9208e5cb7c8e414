"""`medcli sample`."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medcli.cli import amm_options, options
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
ClassesOpt = Annotated[
    str,
    typer.Option(
        "--classes", metavar="C,...|all", help="Labels to show, taken in turn.", rich_help_panel=options.SAMPLING
    ),
]
LabelSamplingOpt = Annotated[
    str,
    options.choice(
        "--label-sampling",
        choices=("equal", "random"),
        help="Whether the classes take turns or are drawn.",
        panel=options.SAMPLING,
    ),
]
CfgIntervalOpt = Annotated[
    str | None,
    typer.Option(
        "--cfg-interval",
        metavar="LO,HI",
        help="Part of the way that is guided, in [0, 1]; outside it the null half is not computed.",
        rich_help_panel=options.SAMPLING,
    ),
]
CfgPowerOpt = Annotated[
    float | None,
    typer.Option(
        "--cfg-power",
        min=0,
        metavar="P",
        help="Guidance that grows over the way, the later the higher P; 0: constant. MDTv2: 4.",
        rich_help_panel=options.SAMPLING,
    ),
]
CompileOpt = Annotated[
    bool,
    typer.Option("--compile", help="Compile the network, one graph a mediator count.", rich_help_panel=options.MACHINE),
]
VaeOpt = Annotated[
    str | None,
    typer.Option(
        "--vae",
        metavar="NAME|PATH",
        help="Autoencoder of the latents: a diffusers folder, or a hub name already in the cache.",
        rich_help_panel=options.INPUT,
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
    vae: VaeOpt = None,
    schedule: options.ScheduleOpt = None,
    mediators: options.MediatorsOpt = None,
    rho: options.RhoOpt = None,
    warmup_steps: options.WarmupStepsOpt = None,
    distance: options.DistanceOpt = None,
    num_images: NumImagesOpt = 16,
    classes: ClassesOpt = "all",
    label_sampling: LabelSamplingOpt = "equal",
    seed: options.SeedOpt = 0,
    steps: options.StepsOpt = None,
    sampler: options.SamplerOpt = None,
    solver: options.SolverOpt = None,
    path: options.PathOpt = None,
    prediction: options.PredictionOpt = None,
    diffusion_form: options.DiffusionFormOpt = None,
    diffusion_norm: options.DiffusionNormOpt = None,
    last_step: options.LastStepOpt = None,
    last_step_size: options.LastStepSizeOpt = None,
    cfg_scale: options.CfgScaleOpt = None,
    cfg_channels: options.CfgChannelsOpt = None,
    cfg_interval: CfgIntervalOpt = None,
    cfg_power: CfgPowerOpt = None,
    amm: amm_options.AmmOpt = None,
    amm_blocks: amm_options.AmmBlocksOpt = None,
    amm_form: amm_options.AmmFormOpt = None,
    batch_size: options.BatchSizeOpt = None,
    device: options.DeviceOpt = None,
    dtype: options.DtypeOpt = "fp32",
    compiled: CompileOpt = False,
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
    from medcli.workflows.sample.settings import SampleRequest

    request = SampleRequest(
        checkpoint=checkpoint,
        stages=parse_stages(stage) if stage else None,
        family=family,
        num_heads=heads,
        weights=weights,
        schedule=schedule,
        mediators=options.parse_ints(mediators) if mediators is not None else None,
        rho=options.parse_floats(rho) if rho is not None else None,
        warmup_steps=warmup_steps,
        distance=distance,
        sampler=sampler,
        solver=solver,
        steps=steps,
        path=path,
        prediction=prediction,
        diffusion_form=diffusion_form,
        diffusion_norm=diffusion_norm,
        last_step=last_step,
        last_step_size=last_step_size,
        cfg_scale=cfg_scale,
        cfg_channels=cfg_channels,
        cfg_interval=parse_interval(cfg_interval) if cfg_interval is not None else None,
        cfg_power=cfg_power,
        amm=amm_options.parse_amm(amm, amm_blocks, amm_form),
        num_images=num_images,
        classes=None if classes == "all" else options.parse_ints(classes, "--classes"),
        label_sampling=label_sampling,
        seed=seed,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        compiled=compiled,
        vae=vae,
        output=output,
        npz=npz,
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


def parse_interval(text: str) -> tuple[float, float]:
    """Read `0.2,0.8`.

    Raises:
        ConfigError: If it is not two numbers.
    """
    try:
        low, high = map(float, text.split(","))
    except ValueError as err:
        raise ConfigError(f"--cfg-interval {text!r} is not LO,HI", hint="write it like --cfg-interval 0.2,0.8") from err
    return low, high


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
