"""SiT solvers as tables of coefficients: a row per step, a column per network call.

A step of Euler-Maruyama, stochastic Heun, any explicit Runge-Kutta method and each of the SDE's last steps is

    x  <- x + noise_before * noise
    x_s = x + sum over r < s of a[s, r] k_r        state at which stage s calls the network, at time[s]
    k_s = on_state[s] x_s + on_output[s] output_s     slope: affine, see interpolant.py
    x  <- state x + sum over m of past[m] p_m + sum over s of b[s] k_s + noise_after * noise

with Butcher's a and b (times the step size) and stage times from his c. Heun's method, for example, is the row

    k_0 = slope(x, t);  k_1 = slope(x + h k_0, t + h)    c = 0, 1;  a[1, 0] = h
    x  <- x + h/2 k_0 + h/2 k_1                          b = h/2, h/2

Multistep solvers make one call a step and remember its slope, p <- (k_0, p_0, ..., p_(M-2)): Adams-Bashforth of order 3
is b[0] = 23/12 h, past = -16/12 h, 5/12 h on an even grid (`multistep` has all weights). For other solvers M is 0.

Images at different steps, the last step included, share a batch by looking up different rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import get_args

import torch
from torch import Tensor

from medcli.diffusion import interpolant
from medcli.diffusion.interpolant import STATE, Affine, PathPoint, path_point
from medcli.diffusion.intervals import ode_interval, sde_interval
from medcli.errors import ConfigError, require_complete
from medcli.settings.sampler import (
    ADAPTIVE_SOLVERS,
    MULTISTEP_ORDERS,
    SOLVERS,
    LastStep,
    SamplerConfig,
)

# Dimension key: L steps, T = L + 1 grid times, M remembered slopes, S stages (network calls of one step), R stages
# already done.


@dataclass(frozen=True, slots=True)
class Tableau:
    """An explicit Runge-Kutta method (Butcher tableau) for a step of length 1."""

    c: tuple[float, ...]
    """Times of the stages."""
    a: tuple[tuple[float, ...], ...]
    """Row s: factors of the slopes before stage s in its state."""
    b: tuple[float, ...]
    """Factors of the slopes in the result."""


# Source: torchdiffeq's fixed-step methods (reference-facts 5.6); `heun` is its `heun2`, `rk4` its 3/8 rule.
TABLEAUS: dict[str, Tableau] = {
    "euler": Tableau((0,), ((),), (1,)),
    "heun": Tableau((0, 1), ((), (1,)), (1 / 2, 1 / 2)),
    "heun3": Tableau((0, 1 / 3, 2 / 3), ((), (1 / 3,), (0, 2 / 3)), (1 / 4, 0, 3 / 4)),
    "midpoint": Tableau((0, 1 / 2), ((), (1 / 2,)), (0, 1)),
    "rk4": Tableau((0, 1 / 3, 2 / 3, 1), ((), (1 / 3,), (-1 / 3, 1), (1, -1, 1)), (1 / 8, 3 / 8, 3 / 8, 1 / 8)),
}
require_complete("solver", TABLEAUS, {*SOLVERS["sde"], *SOLVERS["ode"]} - {*ADAPTIVE_SOLVERS, *MULTISTEP_ORDERS})


@dataclass(frozen=True, slots=True)
class StepTable:
    """The coefficients of every step, float32. A step of fewer stages than others has b = 0 for the rest."""

    calls: tuple[int, ...]
    """Network calls of each step: stages whose result is used."""
    is_noisy: tuple[bool, ...]
    """Per step, true if it uses noise."""
    time_LS: Tensor
    on_state_LS: Tensor
    on_output_LS: Tensor
    a_LSR: Tensor
    b_LS: Tensor
    noise_before_L: Tensor
    noise_after_L: Tensor
    state_L: Tensor
    """Factor of the state a step starts from; 1 but for exponential solvers."""
    past_LM: Tensor
    """Factors of the remembered slopes, the newest first."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Tensor columns, in field order."""
        columns = (getattr(self, field.name) for field in fields(self))
        return tuple(column for column in columns if isinstance(column, Tensor))

    def __len__(self) -> int:
        return len(self.calls)

    def to(self, device: torch.device | str) -> StepTable:
        """Move the table to a device."""
        return StepTable(self.calls, self.is_noisy, *(column.to(device) for column in self.tensors))

    def head(self, num_steps: int) -> StepTable:
        """Keep the first steps (all but the last -n for a negative count)."""
        kept = slice(num_steps)
        return StepTable(self.calls[kept], self.is_noisy[kept], *(column[kept] for column in self.tensors))

    def then(self, other: StepTable) -> StepTable:
        """Append the steps of another table."""
        columns = zip(self.tensors, other.tensors, strict=True)
        joined = (torch.cat(pair) for pair in columns)
        return StepTable(self.calls + other.calls, self.is_noisy + other.is_noisy, *joined)


def ode_table(config: SamplerConfig, *, reverse: bool = False, sample_eps: float | None = None) -> StepTable:
    """Tabulate a fixed-step solver of the probability-flow ODE on `config.steps` grid points.

    Args:
        config: Settings with sampler `ode` and a fixed-step solver.
        reverse: Integrate from data to noise.
        sample_eps: Margin from the singular ends, None for the default.
    """
    start, end = ode_interval(config.path, config.prediction, sample_eps=sample_eps)
    ends = (end, start) if reverse else (start, end)
    grid_T = shifted(torch.linspace(*ends, config.steps), config.time_shift)
    tableau, sizes_L = TABLEAUS[config.solver], grid_T.diff()
    time_LS = _stage_times(tableau, grid_T[:-1], sizes_L)
    drift_LS = interpolant.ode_drift(path_point(config.path, time_LS.double()), config.prediction)
    no_noise_L = torch.zeros_like(sizes_L)
    table = _table(tableau, time_LS, sizes_L, drift_LS, no_noise_L, no_noise_L)
    return _without_last_corrector(table) if config.ends_by_euler else table


def shifted(times_T: Tensor, shift: float) -> Tensor:
    """Shift times t in [0, 1] to s t / (1 + (s - 1) t), in float64; the type is the times'. Shift 1 changes nothing."""
    if shift == 1:
        return times_T
    wide_T = times_T.double()
    return (shift * wide_T / (1 + (shift - 1) * wide_T)).to(times_T.dtype)


def sde_table(config: SamplerConfig, *, sample_eps: float | None = None) -> StepTable:
    """Tabulate stochastic Euler or Heun on `config.steps` grid points (one step fewer), and the last step.

    Args:
        config: Settings with sampler `sde`.
        sample_eps: Margin from the singular ends, None for the default.

    Raises:
        ConfigError: If the last step covers the whole interval.
    """
    last_size = 0.0 if config.last_step == "none" else config.last_step_size
    start, end = sde_interval(
        config.path, config.prediction, form=config.diffusion_form, last_step_size=last_size, sample_eps=sample_eps
    )
    if end <= start:
        raise ConfigError(f"--last-step-size {last_size} leaves no time for the steps before it ({start} to {end})")
    grid_T = torch.linspace(start, end, config.steps)
    heads_L, tableau = grid_T[:-1], TABLEAUS[config.solver]
    sizes_L = (grid_T[1] - grid_T[0]).expand_as(heads_L)  # the references use the first difference throughout
    time_LS = _stage_times(tableau, heads_L, sizes_L)
    point_LS = path_point(config.path, time_LS.double())
    diffusion_LS = interpolant.diffusion_of(point_LS, config.diffusion_form, config.diffusion_norm)
    drift_LS = interpolant.sde_drift(point_LS, config.prediction, diffusion_LS)
    amplitude_L = torch.sqrt(2 * diffusion_LS[:, 0] * sizes_L.double())
    no_noise_L = torch.zeros_like(amplitude_L)
    # Heun adds the noise first and takes both slopes from the noised state.
    noises = (amplitude_L, no_noise_L) if config.solver == "heun" else (no_noise_L, amplitude_L)
    table = _table(tableau, time_LS, sizes_L, drift_LS, *noises)
    if config.solver == "heun" and end == 1.0:
        table = _without_last_corrector(table)
    if last_size > 0 or (config.last_step == "tweedie" and end < 1.0):
        table = table.then(_last_step(config, grid_T[-1:], last_size, stages=len(tableau.c)))
    return table


def _stage_times(tableau: Tableau, heads_L: Tensor, sizes_L: Tensor) -> Tensor:
    """Return the network time of every stage, float32."""
    return heads_L[:, None] + sizes_L[:, None] * torch.tensor(tableau.c)


def _table(
    tableau: Tableau, time_LS: Tensor, sizes_L: Tensor, slope_LS: Affine, before_L: Tensor, after_L: Tensor
) -> StepTable:
    """Build a table whose steps all use one tableau."""
    num_stages = len(tableau.c)
    a_SR = torch.tensor([row + (0.0,) * (num_stages - len(row)) for row in tableau.a], dtype=torch.float64)
    b_S = torch.tensor(tableau.b, dtype=torch.float64)
    size_L = sizes_L.double()
    return StepTable(
        calls=(num_stages,) * len(time_LS),
        is_noisy=tuple(bool(before or after) for before, after in zip(before_L, after_L, strict=True)),
        time_LS=time_LS,
        on_state_LS=column(slope_LS.on_state, time_LS),
        on_output_LS=column(slope_LS.on_output, time_LS),
        a_LSR=(size_L[:, None, None] * a_SR).float(),
        b_LS=(size_L[:, None] * b_S).float(),
        noise_before_L=before_L.float(),
        noise_after_L=after_L.float(),
        **_no_memory(len(time_LS)),
    )


def _no_memory(num_steps: int) -> dict[str, Tensor]:
    """Columns of steps that start from the state itself and remember nothing."""
    return {"state_L": torch.ones(num_steps), "past_LM": torch.zeros(num_steps, 0)}


def column(factor: Tensor | float, like: Tensor) -> Tensor:
    """Expand a factor to a column of a table, float32."""
    return torch.as_tensor(factor).expand_as(like).float()


def _single_slope_row(
    time: Tensor, slope: Affine, size: Tensor | float, *, noise_before: float, stages: int
) -> StepTable:
    """Build a row of one network call: x + noise_before noise, plus size times the slope there.

    Args:
        time: Time of the call, shape (1,) float32.
        slope: Factors of the slope, shape (1,).
        size: Factor of the slope.
        noise_before: Factor of the noise.
        stages: Stages of the table; surplus stages repeat the first with b = 0.
    """
    first_1S = torch.eye(1, stages)
    return StepTable(
        calls=(1,),
        is_noisy=(noise_before != 0,),
        time_LS=time[:, None].expand(1, stages),
        on_state_LS=column(slope.on_state, time)[:, None].expand(1, stages),
        on_output_LS=column(slope.on_output, time)[:, None].expand(1, stages),
        a_LSR=torch.zeros(1, stages, stages),
        b_LS=size * first_1S,
        noise_before_L=torch.tensor([noise_before]),
        noise_after_L=torch.zeros(1),
        **_no_memory(1),
    )


def _without_last_corrector(table: StepTable) -> StepTable:
    """Replace Heun's last step by a first-order one, as in Karras et al. (arXiv 2206.00364), algorithm 1, and REPA.

    Of an SDE to t = 1, the corrector would be evaluated where the score is infinite (the references return NaN or
    infinities there).
    """
    slope = Affine(table.on_state_LS[-1, :1], table.on_output_LS[-1, :1])
    size, noise = 2 * table.b_LS[-1, 0], float(table.noise_before_L[-1])
    return table.head(-1).then(_single_slope_row(table.time_LS[-1, :1], slope, size, noise_before=noise, stages=2))


def _last_step(config: SamplerConfig, end: Tensor, size: float, *, stages: int) -> StepTable:
    """Build the last step at the end of the SDE's grid, which adds no noise.

    Args:
        config: Settings with a last step other than `none`.
        end: Last grid point, shape (1,) float32.
        size: Time covered; ignored by `tweedie`, which jumps to the data.
        stages: Stages of the table.
    """
    slope = LAST_SLOPES[config.last_step](config, path_point(config.path, end.double()))
    size = 1.0 if config.last_step == "tweedie" else size
    return _single_slope_row(end, slope, size, noise_before=0.0, stages=stages)


def _mean_slope(config: SamplerConfig, point: PathPoint) -> Affine:
    diffusion = interpolant.diffusion_of(point, config.diffusion_form, config.diffusion_norm)
    return interpolant.sde_drift(point, config.prediction, diffusion)


LAST_SLOPES: Mapping[str, Callable[[SamplerConfig, PathPoint], Affine]] = MappingProxyType(
    {
        "mean": _mean_slope,
        "tweedie": lambda config, point: interpolant.data(point, config.prediction) + STATE.scaled(-1.0),
        "euler": lambda config, point: interpolant.ode_drift(point, config.prediction),
    }
)
require_complete("last step", LAST_SLOPES, set(get_args(LastStep)) - {"none"})
