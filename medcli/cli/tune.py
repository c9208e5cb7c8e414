"""`medcli tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer

from medcli.cli import options
from medcli.cli import sampling_options as sampling
from medcli.cli import tune_options as own
from medcli.cli.output import output_of
from medcli.cli.tune_table import summary
from medcli.settings.network import parse_layers

if TYPE_CHECKING:
    from medcli.workflows.tune.request import Metric


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
    num_images: own.NumImagesOpt = 64,
    finalists: own.FinalistsOpt = 24,
    against_random: own.AgainstRandomOpt = 0,
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
    """
    out = output_of(ctx)
    from medcli.workflows.tune.request import TuneRequest, budget_of
    from medcli.workflows.tune.run import tune as run

    request = TuneRequest(
        budget=budget_of(gmacs=gmacs, ms=ms, saving=saving),
        # The schedule is what is looked for.
        sampling=sampling.sampling_request(ctx.params, mediators=None, output=None, num_images=num_images),
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
