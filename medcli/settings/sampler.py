"""Settings of the sampler: solver, steps and what they integrate."""

from __future__ import annotations

from dataclasses import dataclass

from medcli.sampler_config import (
    DDIM_SOLVERS,
    ODE_SOLVERS,
    SDE_SOLVERS,
    DiffusionForm,
    GridName,
    LastStep,
    PathName,
    PredictionName,
    SamplerConfig,
    SamplerName,
)
from medcli.settings.declare import SAMPLING, Needs, setting

MAX_STEPS = 100_000
"""Solver steps; the references take up to 1000."""
IN_CHECKPOINT = "from the checkpoint, else {}"
DEFAULTS = SamplerConfig()
SOLVED = Needs("sampler", ("sde", "ode", "ddim"), words="--sampler sde, ode or ddim")
INTEGRATED = Needs("sampler", ("sde", "ode"), words="--sampler sde or ode")
STOCHASTIC = Needs("sampler", ("sde",), words="--sampler sde")
STEPPED = Needs("solver", unless=("exp2", "exp3"), words="--solver euler or heun")


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """Sampler, solver and its steps."""

    steps: int | None = setting(
        None,
        help="Number of solver steps; network calls for adams, exp and multistep solvers.",
        panel=SAMPLING,
        metavar="N",
        minimum=2,
        maximum=MAX_STEPS,
        default_text=IN_CHECKPOINT.format(f"{DEFAULTS.steps}; 20 for ode"),
        example="50",
        short=True,
    )
    sampler: SamplerName | None = setting(
        None,
        help="sde or ode for SiT, ddpm or ddim for the other families.",
        panel=SAMPLING,
        default_text="from the checkpoint, else sde or ddpm",
        short=True,
    )
    solver: str | None = setting(
        None,
        help="Integration scheme. sde: euler, heun, exp; ddim: euler, multistep; ode: the others; dopri5 is adaptive.",
        panel=SAMPLING,
        choices=tuple(dict.fromkeys((*SDE_SOLVERS, *ODE_SOLVERS, *DDIM_SOLVERS))),
        needs=SOLVED,
        default_text="from the checkpoint, else euler; adams3 for ode",
        short=True,
    )
    grid: GridName | None = setting(
        None,
        help="Timesteps of ddim: evenly spaced, or evenly spaced in log-SNR.",
        panel=SAMPLING,
        needs=Needs("sampler", ("ddim",), words="--sampler ddim"),
        default_text=IN_CHECKPOINT.format(DEFAULTS.grid),
    )
    path: PathName | None = setting(
        None,
        help="Interpolant of a SiT model.",
        panel=SAMPLING,
        needs=INTEGRATED,
        default_text=IN_CHECKPOINT.format(DEFAULTS.path),
    )
    prediction: PredictionName | None = setting(
        None,
        help="Output of a SiT network.",
        panel=SAMPLING,
        needs=INTEGRATED,
        default_text=IN_CHECKPOINT.format(DEFAULTS.prediction),
    )
    diffusion_form: DiffusionForm | None = setting(
        None,
        help="Diffusion coefficient of the SDE over time.",
        panel=SAMPLING,
        needs=STOCHASTIC,
        default_text=IN_CHECKPOINT.format(DEFAULTS.diffusion_form),
    )
    diffusion_norm: float | None = setting(
        None,
        help="Factor of the diffusion coefficient.",
        panel=SAMPLING,
        metavar="X",
        above=0,
        needs=STOCHASTIC,
        default_text=IN_CHECKPOINT.format(f"{DEFAULTS.diffusion_norm:g}"),
        example="1",
    )
    last_step: LastStep | None = setting(
        None,
        help="Final denoising step of the SDE sampler.",
        panel=SAMPLING,
        needs=(STOCHASTIC, STEPPED),
        default_text=IN_CHECKPOINT.format(DEFAULTS.last_step),
    )
    last_step_size: float | None = setting(
        None,
        help="Time covered by the last step, in [0, 1).",
        panel=SAMPLING,
        metavar="T",
        minimum=0,
        below=1,
        needs=(
            STOCHASTIC,
            STEPPED,
            Needs("last_step", ("mean", "tweedie", "euler"), words="--last-step mean, tweedie or euler"),
        ),
        default_text=IN_CHECKPOINT.format(DEFAULTS.last_step_size),
        example="0.04",
    )
