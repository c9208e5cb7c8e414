"""`medcli finetune`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, cast

import typer

from medcli.cli import finetune_options as own
from medcli.cli import masking_options, optimizer_options, options
from medcli.cli.command_line import command_line
from medcli.cli.finetune_table import plan_table, report_table
from medcli.cli.output import output_of
from medcli.runtime.processes import this_process
from medcli.settings.network import NetworkSource

if TYPE_CHECKING:
    from medcli.training.config import Dtype, TimestepRule
    from medcli.training.optimizers import OptimizerName


def finetune(
    ctx: typer.Context,
    checkpoint: options.OptionalCheckpointArg = None,
    data: own.DataOpt = "digits",
    preset: own.PresetOpt = None,
    weights: options.WeightsOpt = "ema",
    family: options.FamilyOpt = None,
    heads: options.HeadsOpt = None,
    vae: own.VaeOpt = None,
    flip: own.FlipOpt = True,
    mediators: options.MediatorsOpt = None,
    layers: options.LayersOpt = None,
    res: options.ResOpt = None,
    num_classes: options.NumClassesOpt = None,
    steps: own.StepsOpt = 1000,
    global_batch_size: own.GlobalBatchOpt = 256,
    micro_batch_size: own.MicroBatchOpt = None,
    lr: optimizer_options.LrOpt = 1e-4,
    lr_decay: optimizer_options.LrDecayOpt = None,
    optimizer: optimizer_options.OptimizerOpt = "adamw",
    ema: optimizer_options.EmaOpt = 0.9999,
    grad_clip: optimizer_options.GradClipOpt = 1.0,
    label_dropout: own.LabelDropoutOpt = 0.1,
    train: own.TrainOpt = "all",
    freeze: own.FreezeOpt = None,
    seed: own.SeedOpt = 0,
    ladder_rule: own.LadderRuleOpt = "sandwich",
    train_dense: own.TrainDenseOpt = None,
    calibrate: own.CalibrateOpt = False,
    distill: own.DistillOpt = None,
    distill_weight: own.DistillWeightOpt = None,
    control: own.ControlOpt = False,
    eval_images: own.EvaluateOpt = None,
    path: own.PathOpt = None,
    prediction: own.PredictionOpt = None,
    loss_weight: own.LossWeightOpt = "none",
    min_snr: own.MinSnrOpt = None,
    timesteps: own.TimestepsOpt = "even",
    mask: masking_options.MaskOpt = None,
    mask_ratios: masking_options.MaskRatiosOpt = None,
    mask_mid: masking_options.MaskMidOpt = None,
    device: options.DeviceOpt = None,
    dtype: own.DtypeOpt = "fp32",
    compiled: own.CompileOpt = False,
    checkpoint_activations: own.CheckpointingOpt = False,
    resume: own.ResumeOpt = "auto",
    save_every: own.SaveEveryOpt = 500,
    keep_last: own.KeepLastOpt = 2,
    log_every: own.LogEveryOpt = 100,
    preview_every: own.PreviewEveryOpt = 1000,
    tensorboard: own.TensorboardOpt = False,
    wandb: own.WandbOpt = False,
    output: own.RunOpt = None,
    dry_run: own.DryRunOpt = False,
) -> None:
    """Train a checkpoint further, all mediator counts in one run, or a preset from scratch.

    Without CHECKPOINT and --preset it continues the bundled digits model. --mediators, --layers, --res and
    --num-classes change the network first, as convert does. The same command again continues an interrupted run;
    accelerate launch -m medcli and torchrun -m medcli train in several processes. See docs/finetuning.md.

    Examples:
        medcli finetune --data digits --steps 20 --output runs/digits
        medcli finetune sit_xl.pt --data imagenet-latents --mediators 4,16,64 --calibrate --dry-run
        medcli finetune --preset SiT-S/2 --data imagenet-latents --steps 400000 --dtype bf16 --compile
    """
    from medcli.training.config import TrainConfig
    from medcli.workflows.finetune.initial_model import NO_AUTOENCODER
    from medcli.workflows.finetune.plan import plan_finetune
    from medcli.workflows.finetune.request import FinetuneRequest
    from medcli.workflows.finetune.run import finetune as run

    request = FinetuneRequest(
        training=TrainConfig(
            steps=steps,
            global_batch_size=global_batch_size,
            micro_batch_size=micro_batch_size,
            lr=lr,
            lr_decay=None if lr_decay is None else optimizer_options.parse_lr_decay(lr_decay),
            optimizer=cast("OptimizerName", optimizer),
            ema=ema,
            grad_clip=grad_clip,
            label_dropout=label_dropout,
            ladder_rule=ladder_rule,
            timesteps=cast("TimestepRule", timesteps),
            masking=masking_options.parse_masking(mask, mask_ratios, mask_mid),
            dtype=cast("Dtype", dtype),
            compile=compiled,
            checkpoint_activations=checkpoint_activations,
            seed=seed,
            save_every=save_every,
            log_every=log_every,
            keep_last=keep_last,
            resume=resume,
        ),
        network=NetworkSource(
            checkpoint=checkpoint,
            family=family,
            heads=heads,
            weights=weights,
            mediators=None if mediators is None else () if mediators == "none" else options.parse_ints(mediators),
            layers=layers,
            res=res,
            num_classes=num_classes,
        ),
        preset=preset,
        data=data,
        flip=flip,
        vae=vae,
        output=output,
        train=train,
        freeze=() if freeze is None else tuple(part.strip() for part in freeze.split(",")),
        train_dense=train_dense,
        path=path,
        prediction=prediction,
        weighting=loss_weight,
        min_snr=min_snr,
        distill=distill,
        distill_weight=distill_weight,
        calibrate=calibrate,
        control=control,
        num_evaluated=eval_images,
        preview_every=preview_every,
        tensorboard=tensorboard,
        wandb=wandb,
        device=device,
        command=command_line(ctx),
    )
    out = output_of(ctx)
    if dry_run:
        plan = plan_finetune(request, out)
        if this_process().is_first:
            out.result(plan, plan_table(plan))
        return
    report = run(request, out)
    if this_process().is_first:
        out.result(report, report_table(report))
        decoder = "" if vae in (None, NO_AUTOENCODER) else f" --vae {shlex.quote(str(vae))}"
        out.hint(f"medcli sample {shlex.quote(report.output)}{decoder}")
