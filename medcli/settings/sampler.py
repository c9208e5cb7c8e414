"""Settings of the sampler: solver, steps and what they integrate, as a run has them and as a command asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from medcli.errors import ConfigError, require_complete
from medcli.settings.declare import SAMPLING, Needs, count_setting, optional, setting
from medcli.settings.values import check_values

SamplerName = Literal["sde", "ode", "ddpm", "ddim"]
PathName = Literal["linear", "gvp", "vp"]
PredictionName = Literal["velocity", "score", "noise"]
DiffusionForm = Literal["sigma", "linear", "sbdm", "decreasing", "increasing-decreasing", "constant"]
LastStep = Literal["mean", "tweedie", "euler", "none"]
GridName = Literal["even", "logsnr"]
SOLVERS: Mapping[str, tuple[str, ...]] = {
    "sde": ("euler", "heun", "exp2", "exp3"),
    "ode": ("euler", "heun", "heun3", "midpoint", "rk4", "dopri5", "adams2", "adams3", "adams4"),
    "ddpm": ("euler",),
    "ddim": ("euler", "multistep2", "multistep3"),
}
require_complete("sampler", SOLVERS, get_args(SamplerName))
ADAPTIVE_SOLVERS = ("dopri5",)
"""Solvers that choose their own steps, for a whole batch at once."""
MULTISTEP_ORDERS = {"adams2": 2, "adams3": 3, "adams4": 4, "exp2": 2, "exp3": 3, "multistep2": 2, "multistep3": 3}
"""Solvers that make one network call a step and remember the slopes of earlier steps, with their orders."""

ODE_DEFAULTS: Mapping[str, Any] = {"solver": "adams3", "steps": 20}
"""Defaults of `ode` where they differ, see docs/samplers.md."""
FEW_CALL_SOLVERS = {"ode": ODE_DEFAULTS["solver"], "ddim": "multistep2"}
"""Solver for few network calls of each sampler without noise."""
PAPER_STEPS = 250
"""Steps of the papers' sampling."""
MAX_STEPS = 100_000
"""Solver steps; the references take up to 1000."""
IN_CHECKPOINT = "from the checkpoint, else {}"
IN_CHECKPOINT_OR_ODE = "from the checkpoint, else {}; %s for ode"
SOLVED = Needs("sampler", ("sde", "ode", "ddim"), words="--sampler sde, ode or ddim")
INTEGRATED = Needs("sampler", ("sde", "ode"), words="--sampler sde or ode")
STOCHASTIC = Needs("sampler", ("sde",), words="--sampler sde")
STEPPED = Needs("solver", ("euler", "heun"), words="--solver euler or heun")
ODE = Needs("sampler", ("ode",), words="--sampler ode")


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerConfig:
    """Settings of a sampler from noise to data. Defaults are the reference scripts'.

    Raises:
        ConfigError: If a value is unknown or out of range.
    """

    sampler: SamplerName = setting(
        "sde", help="sde or ode for SiT, ddpm or ddim for the other families.", panel=SAMPLING
    )
    """`ddpm` is ancestral sampling."""
    solver: str = setting(
        "euler",
        help="Integration scheme. sde: euler, heun, exp; ddim: euler, multistep; ode: the others; dopri5 is adaptive.",
        panel=SAMPLING,
        choices=tuple(dict.fromkeys(name for names in SOLVERS.values() for name in names)),
        needs=SOLVED,
    )
    """`euler` of DDIM is DDIM itself."""
    steps: int = count_setting(
        PAPER_STEPS,
        MAX_STEPS,
        help="Number of solver steps; network calls for adams, exp and multistep solvers.",
        panel=SAMPLING,
        minimum=2,
        example="50",
    )
    """SDE and ODE: grid points (the references' `num_steps`). Multistep solvers: network calls. DDPM and DDIM:
    timesteps kept."""
    path: PathName = setting("linear", help="Interpolant of a SiT model.", panel=SAMPLING, needs=INTEGRATED)
    """x_t = alpha(t) data + sigma(t) noise."""
    prediction: PredictionName = setting("velocity", help="Output of a SiT network.", panel=SAMPLING, needs=INTEGRATED)
    diffusion_form: DiffusionForm = setting(
        "sigma", help="Diffusion coefficient of the SDE over time.", panel=SAMPLING, needs=STOCHASTIC
    )
    """Shape w(t) of the injected noise."""
    diffusion_norm: float = setting(
        1.0,
        help="Factor of the diffusion coefficient.",
        panel=SAMPLING,
        metavar="X",
        above=0,
        needs=STOCHASTIC,
        example="1",
    )
    last_step: LastStep = setting(
        "mean",
        help="Final denoising step of sde; euler with ode and heun: its last step is Euler's, as in REPA and EDM.",
        panel=SAMPLING,
        needs=(INTEGRATED, STEPPED),
    )
    last_step_size: float = setting(
        0.04,
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
        example="0.04",
    )
    eta: float = 0.0
    """Noise share of DDIM, 0 = deterministic. No command sets it."""
    grid: GridName = setting(
        "even",
        help="Timesteps of ddim: evenly spaced, or evenly spaced in log-SNR.",
        panel=SAMPLING,
        needs=Needs("sampler", ("ddim",), words="--sampler ddim"),
    )

    time_shift: float = setting(
        1.0,
        help="Shift of the ode's time grid; below 1, more steps are near the noise.",
        panel=SAMPLING,
        metavar="S",
        above=0,
        needs=ODE,
        example="0.3",
    )
    """Each time t of the grid becomes S t / (1 + (S - 1) t). Source: LightningDiT."""

    def __post_init__(self) -> None:
        check_values(self)
        grids = get_args(GridName) if self.sampler == "ddim" else ("even",)
        for name, allowed in (("solver", SOLVERS[self.sampler]), ("grid", grids)):
            if getattr(self, name) not in allowed:
                value = getattr(self, name)
                near = [other for other, solvers in SOLVERS.items() if value in solvers and self._shares_family(other)]
                raise ConfigError(
                    f"--{name} {value!r} is not for --sampler {self.sampler}: expected one of {', '.join(allowed)}",
                    hint=f"use --sampler {near[0]}" if near else f"write it like --{name} {allowed[0]}",
                )
        if self.time_shift != 1 and self.sampler != "ode":
            raise ConfigError("--time-shift is for --sampler ode", hint="leave --time-shift out")
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"eta must be in [0, 1], got {self.eta}", hint="0 is DDIM without noise")
        if self.eta and self.is_multistep:
            raise ConfigError(f"--solver {self.solver} takes no noise share, got eta {self.eta}", hint="leave eta at 0")

    def _shares_family(self, other: str) -> bool:
        """Return True if another sampler is for the same models."""
        return (other in INTEGRATED.values) == (self.sampler in INTEGRATED.values)

    @property
    def ends_by_euler(self) -> bool:
        """True for Heun's method along the ODE with a last step of Euler's."""
        return (self.sampler, self.solver, self.last_step) == ("ode", "heun", "euler")

    @property
    def is_multistep(self) -> bool:
        """True if each step makes one network call and remembers the slopes of earlier steps."""
        return self.solver in MULTISTEP_ORDERS

    @property
    def can_be_observed(self) -> bool:
        """True if the dynamic schedule can read distances between its states."""
        return self.solver not in ADAPTIVE_SOLVERS and self.has_even_steps

    @property
    def has_even_steps(self) -> bool:
        """True if the distances between states tell of the image: steps of one size, of a sampler that is not `ode`.

        Along the ODE the state moves by its velocity times the step size, so thresholds on it never fire or fire with
        the grid.
        """
        return self.sampler in ("sde", "ddpm") or (
            self.sampler == "ddim" and not self.is_multistep and self.grid == "even"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, one per field."""
        values = asdict(self)
        for name, usual in (("grid", "even"), ("time_shift", 1.0)):  # manifests of older runs lack them
            if values[name] == usual:
                del values[name]
        return values


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """Sampler, solver and its steps, as flags. None: the checkpoint's, else the defaults of `SamplerConfig`."""

    steps: int | None = optional(SamplerConfig, "steps", IN_CHECKPOINT_OR_ODE % ODE_DEFAULTS["steps"], short=True)
    sampler: SamplerName | None = optional(SamplerConfig, "sampler", IN_CHECKPOINT.format("sde or ddpm"), short=True)
    solver: str | None = optional(SamplerConfig, "solver", IN_CHECKPOINT_OR_ODE % ODE_DEFAULTS["solver"], short=True)
    grid: GridName | None = optional(SamplerConfig, "grid", IN_CHECKPOINT)
    time_shift: float | None = optional(SamplerConfig, "time_shift", IN_CHECKPOINT)
    path: PathName | None = optional(SamplerConfig, "path", IN_CHECKPOINT)
    prediction: PredictionName | None = optional(SamplerConfig, "prediction", IN_CHECKPOINT)
    diffusion_form: DiffusionForm | None = optional(SamplerConfig, "diffusion_form", IN_CHECKPOINT)
    diffusion_norm: float | None = optional(SamplerConfig, "diffusion_norm", IN_CHECKPOINT)
    last_step: LastStep | None = optional(SamplerConfig, "last_step", IN_CHECKPOINT)
    last_step_size: float | None = optional(SamplerConfig, "last_step_size", IN_CHECKPOINT)
