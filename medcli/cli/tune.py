"""`medcli tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer

from medcli.cli import options
from medcli.cli import sampling_options as sampling
from medcli.cli import tune_options as own
from medcli.cli.idle_flags import refuse_given, refuse_without
from medcli.cli.output import Output, output_of
from medcli.cli.tune_table import comparison_summary, summary
from medcli.settings.network import parse_layers

if TYPE_CHECKING:
    from medcli.workflows.tune.request import Metric

NUM_IMAGES = 64
COMPARED_IMAGES = 400
COMPARED_SEEDS = 5
OF_COMPARISON = frozenset(
    ("checkpoint", "num_images", "seed", "seeds", "device", "output", "compare_schedules", "as_json", "quiet", "debug")
)
"""Parameters that `--compare-schedules` has a use for."""


def tune(
    ctx: typer.Context,
    checkpoint: options.OptionalCheckpointArg = None,
    gmacs: own.GmacsOpt = None,
    ms: own.MsOpt = None,
    saving: own.SavingOpt = None,
    metric: own.MetricOpt = "error",
    reference: own.ReferenceOpt = None,
    layers: options.LayersOpt = None,
    mediators: options.MediatorsOpt = None,
    calibrate: own.CalibrateOpt = False,
    num_images: own.NumImagesOpt = None,
    finalists: own.FinalistsOpt = 24,
    against_random: own.AgainstRandomOpt = 0,
    compare_schedules: own.CompareOpt = False,
    seeds: own.SeedsOpt = None,
    family: options.FamilyOpt = None,
    heads: options.HeadsOpt = None,
    weights: options.WeightsOpt = "ema",
    vae: sampling.VaeOpt = None,
    warmup_steps: options.WarmupStepsOpt = None,
    distance: options.DistanceOpt = None,
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
    batch_size: options.BatchSizeOpt = None,
    device: options.DeviceOpt = None,
    dtype: options.DtypeOpt = "fp32",
    output: options.OutputOpt = None,
) -> None:
    """Choose layers, ladder and thresholds that keep closest to full attention within a budget.

    Shows the front of cost against error, and the command that samples with the choice.
    The same command again goes on where it stopped; another budget in the same folder uses what was measured.

    Examples:
        medcli tune --saving 6%
        medcli tune sit_xl-mediators.safetensors --gmacs 26000 --metric fid --reference imagenet.npz -o tuning-xl
        medcli tune --compare-schedules --num-images 200 -o schedules
    """
    out = output_of(ctx)
    if compare_schedules:
        # The comparison has flags of its own; those of a search would do nothing.
        refuse_given(ctx, [name for name in ctx.params if name not in OF_COMPARISON], where="with --compare-schedules")
        _compare(out, checkpoint, num_images, seeds, seed, device, output)
        return
    refuse_without("--compare-schedules", {"--seeds": seeds}, hint="leave --seeds out")
    from medcli.workflows.tune.request import TuneRequest, budget_of
    from medcli.workflows.tune.run import tune as run

    request = TuneRequest(
        budget=budget_of(gmacs=gmacs, ms=ms, saving=saving),
        # The schedule is what is looked for.
        sampling=sampling.sampling_request(
            ctx.params, mediators=None, output=None, num_images=num_images or NUM_IMAGES
        ),
        output=output or Path("tuning"),
        layers=None if layers is None else lambda depth: parse_layers(layers, depth),
        mediators=options.parse_ints(mediators) if mediators is not None else None,
        metric=cast("Metric", metric),
        reference=reference,
        num_finalists=finalists,
        num_random=against_random,
        calibrate=calibrate,
    )
    report = run(request, out)
    out.result(report, summary(report))
    out.hint(f"look at {Path(report.output) / 'tuning.png'}")


def _compare(
    out: Output,
    checkpoint: Path | None,
    num_images: int | None,
    seeds: int | None,
    seed: int,
    device: str | None,
    output: Path | None,
) -> None:
    from medcli.workflows.schedule_comparison import ComparisonRequest, compare_schedules

    request = ComparisonRequest(
        checkpoint=checkpoint,
        num_images=num_images or COMPARED_IMAGES,
        num_seeds=seeds or COMPARED_SEEDS,
        seed=seed,
        output=output or Path("schedules"),
        device=device,
    )
    report = compare_schedules(request, out)
    out.result(report, comparison_summary(report))
    out.hint(f"look at {Path(report.output) / 'comparison.png'}")
