"""Options that say how images are sampled, and the request that flags make. Loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, get_args

import typer

from medcli.cli.options import INPUT, SAMPLING, choice
from medcli.sampler_config import (
    ODE_SOLVERS,
    SDE_SOLVERS,
    DiffusionForm,
    LastStep,
    PathName,
    PredictionName,
    SamplerName,
)

if TYPE_CHECKING:
    pass

StepsOpt = Annotated[
    int | None, typer.Option("--steps", min=1, metavar="N", help="Solver steps.", rich_help_panel=SAMPLING)
]
SamplerOpt = Annotated[
    str | None,
    choice(
        "--sampler",
        choices=get_args(SamplerName),
        help="SiT: sde or ode; DiT: ddpm or ddim.",
        panel=SAMPLING,
    ),
]
SolverOpt = Annotated[
    str | None,
    choice(
        "--solver",
        choices=tuple(dict.fromkeys((*SDE_SOLVERS, *ODE_SOLVERS))),
        help="Integration scheme; sde takes euler and heun only, dopri5 is adaptive.",
        panel=SAMPLING,
    ),
]
PathOpt = Annotated[
    str | None, choice("--path", choices=get_args(PathName), help="Interpolant of a SiT model.", panel=SAMPLING)
]
PredictionOpt = Annotated[
    str | None,
    choice("--prediction", choices=get_args(PredictionName), help="What a SiT model predicts.", panel=SAMPLING),
]
DiffusionFormOpt = Annotated[
    str | None,
    choice(
        "--diffusion-form", choices=get_args(DiffusionForm), help="Shape of the sde's injected noise.", panel=SAMPLING
    ),
]
DiffusionNormOpt = Annotated[
    float | None,
    typer.Option("--diffusion-norm", metavar="X", help="Factor of that shape.", rich_help_panel=SAMPLING),
]
LastStepOpt = Annotated[
    str | None,
    choice("--last-step", choices=get_args(LastStep), help="What the sde does at its end.", panel=SAMPLING),
]
LastStepSizeOpt = Annotated[
    float | None,
    typer.Option(
        "--last-step-size", metavar="T", help="Time the last step covers, in [0, 1).", rich_help_panel=SAMPLING
    ),
]
CfgScaleOpt = Annotated[
    float | None,
    typer.Option("--cfg-scale", metavar="W", help="Classifier-free guidance; 1 is off.", rich_help_panel=SAMPLING),
]
CfgChannelsOpt = Annotated[
    str | None,
    choice(
        "--cfg-channels", choices=("3", "all"), help="Latent channels guidance acts on (upstream: 3).", panel=SAMPLING
    ),
]
ClassesOpt = Annotated[
    str,
    typer.Option("--classes", metavar="C,...|all", help="Labels to show, taken in turn.", rich_help_panel=SAMPLING),
]
LabelSamplingOpt = Annotated[
    str,
    choice(
        "--label-sampling",
        choices=("equal", "random"),
        help="Whether the classes take turns or are drawn.",
        panel=SAMPLING,
    ),
]
CfgIntervalOpt = Annotated[
    str | None,
    typer.Option(
        "--cfg-interval",
        metavar="LO,HI",
        help="Part of the way that is guided, in [0, 1]; outside it the null half is not computed.",
        rich_help_panel=SAMPLING,
    ),
]
CfgPowerOpt = Annotated[
    float | None,
    typer.Option(
        "--cfg-power",
        min=0,
        metavar="P",
        help="Guidance that grows over the way, the later the higher P; 0: constant. MDTv2: 4.",
        rich_help_panel=SAMPLING,
    ),
]
VaeOpt = Annotated[
    str | None,
    typer.Option(
        "--vae",
        metavar="NAME|PATH",
        help="Autoencoder of the latents: a diffusers folder, or a hub name already in the cache.",
        rich_help_panel=INPUT,
    ),
]
