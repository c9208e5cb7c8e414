"""The probability-flow ODE by torchdiffeq's adaptive dopri5.

The solver measures its error over the whole batch, so an image's result depends, within the tolerance, on the other
images of its batch; with the fixed-step solvers of `steps` it does not.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medcli.diffusion.interpolant import ode_drift, path_point
from medcli.diffusion.intervals import ode_interval
from medcli.diffusion.steps import Predict
from medcli.runtime.extras import require_extra
from medcli.settings.sampler import SamplerConfig

# Dimension key: T grid points, B batch, C latent channels, Y X latent height and width.

REFERENCE_ATOL = 1e-6
REFERENCE_RTOL = 1e-3

# Names of torchdiffeq that differ from ours.
TORCHDIFFEQ_METHODS = {"heun": "heun2"}

Field = Callable[[Tensor, Tensor], Tensor]
"""(0-d time, state) -> time derivative of the state."""


def integrate_adaptive(
    predict: Predict,
    x_BCYX: Tensor,
    config: SamplerConfig,
    *,
    reverse: bool = False,
    atol: float = REFERENCE_ATOL,
    rtol: float = REFERENCE_RTOL,
) -> Tensor:
    """Integrate from noise to data with torchdiffeq and `config.solver`.

    Args:
        predict: The network. dopri5 also calls it at times above 1: its last step overshoots and is interpolated.
        x_BCYX: Noise (data if `reverse`), float32.
        config: Settings with sampler `ode` and solver `dopri5`, which ignores `config.steps`.
        reverse: From data to noise.
        atol: Absolute tolerance, of the batch-wide error norm.
        rtol: Relative tolerance, likewise.

    Returns:
        (B, C, Y, X) data (noise if `reverse`).
    """
    field = ode_field(predict, config)
    ends = solve(field, x_BCYX, config, num_points=2, reverse=reverse, atol=atol, rtol=rtol)
    return ends[-1]


def solve(
    field: Field, start: Tensor, config: SamplerConfig, *, num_points: int, reverse: bool, atol: float, rtol: float
) -> Tensor:
    """Integrate a field over the ODE's interval with torchdiffeq.

    Args:
        field: Maps 0-d time and state to the derivative of the state.
        start: The initial state.
        config: Solver, path and prediction.
        num_points: Number of evenly spaced output times; the grid of a fixed-step solver.
        reverse: Integrate from data to noise.
        atol: Absolute tolerance.
        rtol: Relative tolerance.

    Returns:
        The states with a leading time axis, initial state first, result last.

    Raises:
        EnvironmentProblem: If torchdiffeq is not installed.
    """
    require_extra("torchdiffeq")
    from torchdiffeq import odeint

    low, high = ode_interval(config.path, config.prediction)
    times_T = torch.linspace(*((high, low) if reverse else (low, high)), num_points)
    method = TORCHDIFFEQ_METHODS.get(config.solver, config.solver)
    return odeint(field, start, times_T.to(start.device), method=method, atol=atol, rtol=rtol)


def ode_field(predict: Predict, config: SamplerConfig) -> Field:
    """Return the velocity field of the probability-flow ODE in SiT's time."""

    def velocity(t: Tensor, x_BCYX: Tensor) -> Tensor:
        t_B = t.to(torch.float32).expand(len(x_BCYX))
        drift = ode_drift(path_point(config.path, t_B), config.prediction)
        return drift.of(x_BCYX, predict(x_BCYX, t_B).to(x_BCYX.dtype))

    return velocity
