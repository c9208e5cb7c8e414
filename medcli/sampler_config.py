"""Sampler settings from noise to data: one frozen, torch-free description."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from medcli.errors import ConfigError

SamplerName = Literal["sde", "ode", "ddpm", "ddim"]
PathName = Literal["linear", "gvp", "vp"]
PredictionName = Literal["velocity", "score", "noise"]
DiffusionForm = Literal["sigma", "linear", "sbdm", "decreasing", "increasing-decreasing", "constant"]
LastStep = Literal["mean", "tweedie", "euler", "none"]
ODE_SOLVERS = ("euler", "heun", "heun3", "midpoint", "rk4", "dopri5", "adams2", "adams3", "adams4")
SDE_SOLVERS = ("euler", "heun", "exp2", "exp3")
ADAPTIVE_SOLVERS = ("dopri5",)
"""Solvers that choose their own steps, for a whole batch at once."""
DDIM_SOLVERS = ("euler", "multistep2", "multistep3")
MULTISTEP_ORDERS = {"adams2": 2, "adams3": 3, "adams4": 4, "exp2": 2, "exp3": 3, "multistep2": 2, "multistep3": 3}
"""Solvers that make one network call a step and remember the slopes of earlier steps, with their orders."""
GridName = Literal["even", "logsnr"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerConfig:
    """Settings of a sampler from noise to data. Defaults are the reference scripts'.

    Raises:
        ConfigError: If a value is unknown or out of range.
    """

    sampler: SamplerName = "sde"
    """SiT: `sde` or `ode`. DiT: `ddpm` (ancestral) or `ddim`."""
    solver: str = "euler"
    """Integration scheme; `dopri5` is adaptive and for `ode` only. `euler` of DDIM is DDIM itself."""
    steps: int = 250
    """SDE and ODE: grid points (the references' `num_steps`). Multistep solvers: network calls. DDPM and DDIM:
    timesteps kept."""
    path: PathName = "linear"
    """Interpolant x_t = alpha(t) data + sigma(t) noise. SiT only."""
    prediction: PredictionName = "velocity"
    """Output of a SiT network."""
    diffusion_form: DiffusionForm = "sigma"
    """Shape w(t) of the SDE's injected noise."""
    diffusion_norm: float = 1.0
    """Factor of that shape."""
    last_step: LastStep = "mean"
    """Final denoising step of the SDE."""
    last_step_size: float = 0.04
    """Time covered by the last step, in [0, 1); unused with `none`."""
    eta: float = 0.0
    """Noise share of DDIM, 0 = deterministic."""
    grid: GridName = "even"
    """Timesteps DDIM keeps: evenly spaced, or evenly spaced in log-SNR."""

    def __post_init__(self) -> None:
        choices = {
            "sampler": get_args(SamplerName),
            "path": get_args(PathName),
            "prediction": get_args(PredictionName),
            "diffusion_form": get_args(DiffusionForm),
            "last_step": get_args(LastStep),
            "grid": get_args(GridName) if self.sampler == "ddim" else ("even",),
            "solver": {"sde": SDE_SOLVERS, "ode": ODE_SOLVERS, "ddim": DDIM_SOLVERS}.get(self.sampler, ("euler",)),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                flag = name.replace("_", "-")
                whose = f" by {self.sampler}" if name in ("solver", "grid") else ""
                raise ConfigError(
                    f"--{flag} {getattr(self, name)!r}: expected one of {', '.join(allowed)}{whose}",
                    hint=f"write it like --{flag} {next(iter(allowed))}",
                )
        if self.steps < 2:
            raise ConfigError(f"--steps must be at least 2, got {self.steps}", hint="try --steps 50")
        if not 0 <= self.last_step_size < 1:
            raise ConfigError(
                f"--last-step-size must be in [0, 1), got {self.last_step_size}", hint="the references use 0.04"
            )
        if not 0 < self.diffusion_norm < math.inf:
            raise ConfigError(
                f"--diffusion-norm must be a positive number, got {self.diffusion_norm}", hint="the references use 1"
            )
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"eta must be in [0, 1], got {self.eta}", hint="0 is DDIM without noise")
        if self.eta and self.is_multistep:
            raise ConfigError(f"--solver {self.solver} takes no noise share, got eta {self.eta}", hint="leave eta at 0")

    @property
    def is_multistep(self) -> bool:
        """True if each step makes one network call and remembers the slopes of earlier steps."""
        return self.solver in MULTISTEP_ORDERS

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
        """Plain JSON values, one per field."""
        values = asdict(self)
        if self.grid == "even":  # manifests of older runs lack it
            del values["grid"]
        return values
