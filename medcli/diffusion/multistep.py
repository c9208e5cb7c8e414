"""Weights of linear multistep solvers: one network call a step, the slopes of earlier steps remembered.

A step from t to t' (times t_0 > t_1 > ... of the last calls, the newest first) is

    x  <-  state x + sum over j of weight[j] q_j + noise z

where q_0 is the slope of this step's call and q_j the one remembered from j steps ago. Along the probability-flow ODE q
is the velocity (Adams-Bashforth); along the SDE and along DiT's diffusion it is the data prediction D, whose polynomial
in time is integrated exactly against the linear part of the equation (exponential integrators).

Weights are float64 numbers; `multistep_table` makes them rows of the table in `solver_tables`.

Source: Hairer, Norsett, Wanner, Solving ODEs I, III.1 (Adams); DPM-Solver++ (arXiv 2211.01095) and SA-Solver
(arXiv 2309.05019) for data-prediction multistep methods, here with polynomials in time instead of log-SNR, which is
infinite at both ends of SiT's paths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from numpy.polynomial import Polynomial
from torch import Tensor

from medcli.diffusion import interpolant
from medcli.diffusion.gaussian import NUM_TRAIN_TIMESTEPS as NUM_TIMES
from medcli.diffusion.gaussian import gaussian_tables, kept_timesteps
from medcli.diffusion.interpolant import Affine, diffusion_of, path_point
from medcli.diffusion.intervals import ode_interval
from medcli.diffusion.solver_tables import StepTable, column, shifted
from medcli.errors import ConfigError
from medcli.settings.sampler import MULTISTEP_ORDERS, DiffusionForm, PathName, SamplerConfig

# Dimension key: L steps, T = L + 1 grid times, M remembered slopes, J = M + 1 slopes of a step, Q quadrature nodes.

Floats = npt.NDArray[np.float64]
NODES_Q, WEIGHTS_Q = np.polynomial.legendre.leggauss(64)
"""Gauss-Legendre nodes and weights on [-1, 1]; the integrands are smooth inside a step."""
UNIT_NODES, UNIT_WEIGHTS = np.polynomial.legendre.leggauss(8)
"""The same for the unit intervals between DiT's integer timesteps."""


@dataclass(frozen=True, slots=True)
class MultistepWeights:
    """The numbers of every step, float64."""

    state_L: Floats
    """Factor of the state."""
    weight_LJ: Floats
    """Factors of the slopes, this step's first; 0 where a step remembers fewer."""
    noise_L: Floats
    """Factor of the standard normal noise added."""


@dataclass(frozen=True, slots=True)
class MultistepRows:
    """Times and weights of every step."""

    time_L: Floats
    """Time of each network call: in [0, 1) for SiT, falling timesteps for the other families."""
    weights: MultistepWeights


def lagrange(nodes: Floats, j: int) -> Polynomial:
    """Lagrange basis polynomial: 1 at node j, 0 at the others."""
    others = np.delete(nodes, j)
    return Polynomial.fromroots(others) / float(np.prod(nodes[j] - others)) if len(others) else Polynomial([1.0])


def adams_weights(grid_T: Floats, order: int) -> MultistepWeights:
    """Integrate the polynomial through the last velocities (Adams-Bashforth) over each step of any grid.

    Args:
        grid_T: Strictly monotonic times.
        order: Velocities used, 1 (Euler) or more; step k has only k + 1 of them and uses order min(order, k + 1).
    """
    weight_LJ = np.zeros((len(grid_T) - 1, order))
    for step, nodes in enumerate(_histories(grid_T, order)):
        # Relative to the step's start, so that a small step far from 0 keeps its digits.
        start, size = grid_T[step], grid_T[step + 1] - grid_T[step]
        for j in range(len(nodes)):
            weight_LJ[step, j] = lagrange(nodes - start, j).integ()(size)
    num_steps = len(weight_LJ)
    return MultistepWeights(np.ones(num_steps), weight_LJ, np.zeros(num_steps))


def exponential_weights(
    path: PathName, grid_T: Floats, order: int, form: DiffusionForm | None = None, norm: float = 1.0
) -> MultistepWeights:
    """Solve the SDE (without a form: the ODE) exactly but for the data prediction, a polynomial in time.

    With u = (x - alpha D) / sigma the SDE is an Ornstein-Uhlenbeck process,
    du = -(w / sigma^2) u dt + sqrt(2 w) / sigma dW, so for a constant D
    x' = alpha' D + sigma' (rho u + sqrt(1 - rho^2) z) with rho = exp(-integral of w / sigma^2).

    Args:
        grid_T: Strictly rising times in [0, 1]. A last time of 1 needs no special last step.
        order: Data predictions used at most.
        form: Shape w(t) of the injected noise; None for the probability-flow ODE.
        norm: Factor of that shape.
    """
    num_steps = len(grid_T) - 1
    state_L, weight_LJ, noise_L = np.zeros(num_steps), np.zeros((num_steps, order)), np.zeros(num_steps)
    alpha_T, sigma_T = _alpha_sigma(path, grid_T)
    for step, nodes in enumerate(_histories(grid_T, order)):
        start, end = grid_T[step], grid_T[step + 1]
        alpha, sigma, alpha_end, sigma_end = alpha_T[step], sigma_T[step], alpha_T[step + 1], sigma_T[step + 1]
        if sigma_end == 0:  # the data end: the state is the extrapolated data prediction
            weight_LJ[step, : len(nodes)] = [lagrange(nodes, j)(end) for j in range(len(nodes))]
            continue
        rho = float(_decay(path, np.array([start]), end, form, norm)[0])
        state_L[step] = sigma_end * rho / sigma
        noise_L[step] = sigma_end * np.sqrt(max(0.0, 1.0 - rho**2))

        def kernel(s_Q: Floats, end: float = end, sigma_end: float = sigma_end) -> Floats:
            alpha_Q, sigma_Q = _alpha_sigma(path, s_Q)
            return sigma_end * alpha_Q * _decay(path, s_Q, end, form, norm) / sigma_Q

        at_start = sigma_end * rho * alpha / sigma
        for j in range(len(nodes)):
            basis = lagrange(nodes, j)
            weight_LJ[step, j] = _by_parts(basis, alpha_end * basis(end), at_start * basis(start), kernel, start, end)
    return MultistepWeights(state_L, weight_LJ, noise_L)


def gaussian_weights(alphas_cumprod: Floats, timesteps: Sequence[int], order: int) -> MultistepWeights:
    """Solve DiT's probability-flow ODE exactly but for the data prediction, a polynomial in the integer timestep.

    Order 1 is DDIM. The log-SNR between two integers is interpolated linearly.

    Args:
        alphas_cumprod: Of all training timesteps, from 0 (least noise).
        timesteps: Timesteps of the network calls, strictly falling. The last step goes to clean data, which stands at
            timestep -1.
        order: Data predictions used at most.
    """
    times_T = np.array([*timesteps, -1], dtype=np.float64)
    alpha_T = np.sqrt(np.array([*alphas_cumprod[list(timesteps)], 1.0]))
    sigma_T = np.sqrt(np.array([*(1 - alphas_cumprod[list(timesteps)]), 0.0]))
    log_snr = np.log(alphas_cumprod / (1 - alphas_cumprod)) / 2
    num_steps = len(timesteps)
    state_L, weight_LJ = sigma_T[1:] / sigma_T[:-1], np.zeros((num_steps, order))
    for step, nodes in enumerate(_histories(times_T, order)):
        start, end = times_T[step], times_T[step + 1]
        sigma_end, at_start = sigma_T[step + 1], sigma_T[step + 1] * alpha_T[step] / sigma_T[step]
        for j in range(len(nodes)):
            basis = lagrange(nodes, j)
            weight = alpha_T[step + 1] * basis(end) - at_start * basis(start)
            if sigma_end and len(nodes) > 1:
                weight += sigma_end * _integral_over_units(basis.deriv(), log_snr, int(end), int(start))
            weight_LJ[step, j] = weight
    return MultistepWeights(state_L, weight_LJ, np.zeros(num_steps))


def multistep_rows(
    config: SamplerConfig,
    times_L: Floats | None = None,
    *,
    reverse: bool = False,
    sample_eps: float | None = None,
) -> MultistepRows:
    """Compute the rows of a multistep solver.

    Args:
        config: With a multistep solver of the `ode`, `sde` or `ddim` sampler.
        times_L: Times of the network calls, strictly monotonic; None: `config.steps` calls on the solver's own grid.
        reverse: From data to noise; `ode` only.
        sample_eps: Margin kept from the singular ends, None for the default. The SDE's solvers keep none at the data.

    Raises:
        ConfigError: If times of DiT are no timesteps of the model.
    """
    order = MULTISTEP_ORDERS[config.solver]
    if config.sampler == "ddim":
        timesteps = kept_timesteps(config)[::-1] if times_L is None else [int(time) for time in times_L]
        if times_L is not None and (
            list(times_L) != timesteps or not 0 <= min(timesteps) <= max(timesteps) < NUM_TIMES
        ):
            raise ConfigError(f"times must be whole timesteps in 0..{NUM_TIMES - 1}")
        return MultistepRows(np.array(timesteps, dtype=np.float64), gaussian_weights(_abar(), timesteps, order))
    start, end = ode_interval(config.path, config.prediction, sample_eps=sample_eps)
    start, end = (end, start) if reverse else (start, 1.0 if config.sampler == "sde" else end)
    even_T = shifted(torch.from_numpy(np.linspace(start, end, config.steps + 1)), config.time_shift).numpy()
    grid_T = even_T if times_L is None else np.append(times_L, end)
    if config.sampler == "ode":
        return MultistepRows(grid_T[:-1], adams_weights(grid_T, order))
    weights = exponential_weights(config.path, grid_T, order, config.diffusion_form, config.diffusion_norm)
    return MultistepRows(grid_T[:-1], weights)


def multistep_table(config: SamplerConfig, rows: MultistepRows) -> StepTable:
    """Lay the rows of a multistep solver out as a table of steps.

    Args:
        rows: Its rows, or others for the same kind of slope: velocities for `ode`, data predictions else.
    """
    time_L = torch.from_numpy(rows.time_L.copy())
    if config.sampler == "ddim":
        abar_L = torch.from_numpy(_abar())[time_L.long()]
        return _multistep(time_L.long(), Affine(1 / abar_L.sqrt(), -(1 / abar_L - 1).sqrt()), rows.weights)
    slope = interpolant.ode_drift if config.sampler == "ode" else interpolant.data
    return _multistep(time_L.float(), slope(path_point(config.path, time_L), config.prediction), rows.weights)


def _abar() -> Floats:
    return gaussian_tables(range(NUM_TIMES)).alphas_cumprod.numpy()


def _multistep(time_L: Tensor, slope_L: Affine, weights: MultistepWeights) -> StepTable:
    """Fill in a table whose steps make one call each."""
    num_steps, weight_LJ = len(time_L), torch.from_numpy(weights.weight_LJ)
    like_L1 = torch.zeros(num_steps, 1)
    return StepTable(
        calls=(1,) * num_steps,
        is_noisy=tuple(bool(factor) for factor in weights.noise_L),
        time_LS=time_L[:, None],
        on_state_LS=column(torch.as_tensor(slope_L.on_state).reshape(-1, 1), like_L1),
        on_output_LS=column(torch.as_tensor(slope_L.on_output).reshape(-1, 1), like_L1),
        a_LSR=torch.zeros(num_steps, 1, 1),
        b_LS=weight_LJ[:, :1].float(),
        noise_before_L=torch.zeros(num_steps),
        noise_after_L=torch.from_numpy(weights.noise_L).float(),
        state_L=torch.from_numpy(weights.state_L).float(),
        past_LM=weight_LJ[:, 1:].float(),
    )


def _histories(grid_T: Floats, order: int) -> list[Floats]:
    """Times of the calls each step can use, the newest first."""
    return [grid_T[max(0, step + 1 - order) : step + 1][::-1] for step in range(len(grid_T) - 1)]


def _by_parts(
    basis: Polynomial,
    at_end: float,
    at_start: float,
    kernel: Callable[[Floats], Floats],
    start: float,
    end: float,
) -> float:
    """Integrate a basis polynomial against the kernel's derivative: boundary values less the integral of L' kernel."""
    if basis.degree() == 0:
        return at_end - at_start
    half = (end - start) / 2
    s_Q = start + half * (NODES_Q + 1)
    return at_end - at_start - half * float(np.dot(WEIGHTS_Q, basis.deriv()(s_Q) * kernel(s_Q)))


def _integral_over_units(slope: Polynomial, log_snr: Floats, low: int, high: int) -> float:
    """Integrate slope(s) exp(log_snr(s)) over [low, high], piece by piece between integer timesteps."""
    left = np.arange(low, high)[:, None]
    offset = (UNIT_NODES + 1)[None, :] / 2
    value = log_snr[left] * (1 - offset) + log_snr[left + 1] * offset
    return float((slope(left + offset) * np.exp(value) @ (UNIT_WEIGHTS / 2)).sum())


def _alpha_sigma(path: PathName, t: Floats) -> tuple[Floats, Floats]:
    point = path_point(path, torch.from_numpy(np.ascontiguousarray(t)))
    # cos(pi / 2) is not quite 0 in floating point.
    return point.alpha.numpy(), np.where(t == 1.0, 0.0, point.sigma.numpy())


def _decay(path: PathName, s_Q: Floats, end: float, form: DiffusionForm | None, norm: float) -> Floats:
    """rho(s -> end) = exp(-integral of w / sigma^2) for each s."""
    if form is None:
        return np.ones_like(s_Q)
    if form == "sbdm":  # w / sigma^2 = norm (alpha' / alpha - sigma' / sigma): infinite at alpha = 0, but integrable
        (alpha_Q, sigma_Q), (alpha_end, sigma_end) = _alpha_sigma(path, s_Q), _alpha_sigma(path, np.array([end]))
        return (alpha_Q * sigma_end / (alpha_end * sigma_Q)) ** norm
    half_Q = (end - s_Q) / 2
    inner_QQ = s_Q[:, None] + half_Q[:, None] * (NODES_Q + 1)[None, :]
    return np.exp(-half_Q * (_rate(path, inner_QQ, form, norm) @ WEIGHTS_Q))


def _rate(path: PathName, t: Floats, form: DiffusionForm, norm: float) -> Floats:
    """w(t) / sigma(t)^2."""
    point = path_point(path, torch.from_numpy(t))
    return (diffusion_of(point, form, norm) / point.sigma**2).numpy()
