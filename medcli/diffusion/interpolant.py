"""Interpolants x_t = alpha(t) data + sigma(t) noise, and conversions between network outputs along them.

Time runs from 0 (noise) to 1 (data), as in SiT. Velocity, score, noise, data, drift of the ODE and of the SDE are all
*affine* in the state and the network output: `on_state * x + on_output * output`, with factors that depend on time
only. This file computes those factors, so a solver step is a few multiply-adds with tabulated numbers.

Source: SiT (arXiv 2401.08740) section 2 and table 1; reference-facts 5.1, 5.2, 5.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import get_args

import torch
from torch import Tensor

from medcli.errors import require_complete
from medcli.settings.sampler import DiffusionForm, PathName, PredictionName

# Dimension key: T times (one per image in training, one per grid point in a solver), B batch, C channels, Y X height
# and width.

# Noise schedule of the VP path: beta(s) = VP_BETA_MIN + s (VP_BETA_MAX - VP_BETA_MIN) with s = 1 - t.
VP_BETA_MIN = 0.1
VP_BETA_MAX = 20.0


def over_images(factor_T: Tensor | float, like: Tensor) -> Tensor | float:
    """Reshape one factor per image (or one for all) to broadcast over a batch of any rank."""
    if not isinstance(factor_T, Tensor) or factor_T.ndim == 0:
        return factor_T
    return factor_T.view(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True, slots=True)
class Affine:
    """The quantity `on_state * x + on_output * output`; factors are (T,) tensors or plain numbers."""

    on_state: Tensor | float
    on_output: Tensor | float

    def __add__(self, other: Affine) -> Affine:
        return Affine(self.on_state + other.on_state, self.on_output + other.on_output)

    def scaled(self, factor: Tensor | float) -> Affine:
        """Multiply by a factor."""
        return Affine(self.on_state * factor, self.on_output * factor)

    def of(self, x: Tensor, output: Tensor) -> Tensor:
        """Evaluate for a batch of states and network outputs, first axis matching the factors."""
        return over_images(self.on_state, x) * x + over_images(self.on_output, x) * output


STATE = Affine(1.0, 0.0)
OUTPUT = Affine(0.0, 1.0)


@dataclass(frozen=True, slots=True)
class PathPoint:
    """The interpolant's coefficients at given times, (T,) or 0-d."""

    path: PathName
    t: Tensor
    alpha: Tensor
    """Factor of the data."""
    d_alpha: Tensor
    """Time derivative."""
    sigma: Tensor
    """Factor of the noise."""
    d_sigma: Tensor
    """Time derivative; infinite at t = 1 on the VP path."""

    @property
    def rate(self) -> Tensor:
        """The ratio alpha' / alpha: the drift's factor on the state. Infinite at t = 0 on the linear and GVP paths."""
        return self.d_alpha / self.alpha

    @property
    def variance(self) -> Tensor:
        """The variance term rate sigma^2 - sigma sigma': the drift's factor on the score, and the SBDM diffusion."""
        if self.path == "vp":  # beta / 2: the general formula would cancel
            return (VP_BETA_MIN + (1 - self.t) * (VP_BETA_MAX - VP_BETA_MIN)) / 2
        return self.sigma * (self.rate * self.sigma - self.d_sigma)

    def noised(self, data: Tensor, noise: Tensor) -> Tensor:
        """Return x_t for a batch of data and noise of the same shape."""
        return over_images(self.alpha, data) * data + over_images(self.sigma, data) * noise

    def target_velocity(self, data: Tensor, noise: Tensor) -> Tensor:
        """Return the time derivative of x_t for a batch of data and noise of the same shape."""
        return over_images(self.d_alpha, data) * data + over_images(self.d_sigma, data) * noise


def path_point(path: PathName, t: Tensor) -> PathPoint:
    """Evaluate an interpolant.

    Args:
        path: `linear`, `gvp` (trigonometric, variance preserving) or `vp` (the diffusion of score-based models).
        t: Times in [0, 1], any floating type; the result keeps it.
    """
    return PathPoint(path, t, *PATHS[path](t))


Coefficients = tuple[Tensor, Tensor, Tensor, Tensor]
"""alpha, alpha', sigma and sigma'."""


def _linear(t: Tensor) -> Coefficients:
    return t, torch.ones_like(t), 1 - t, -torch.ones_like(t)


def _gvp(t: Tensor) -> Coefficients:
    quarter = math.pi / 2
    sine, cosine = torch.sin(quarter * t), torch.cos(quarter * t)
    return sine, quarter * cosine, cosine, -quarter * sine


def _vp(t: Tensor) -> Coefficients:
    span = VP_BETA_MAX - VP_BETA_MIN
    log_alpha = -((1 - t) ** 2) * span / 4 - (1 - t) * VP_BETA_MIN / 2
    d_log_alpha = (1 - t) * span / 2 + VP_BETA_MIN / 2
    alpha = torch.exp(log_alpha)
    sigma = torch.sqrt(-torch.expm1(2 * log_alpha))  # expm1: 1 - exp(.) loses its digits near the data
    return alpha, alpha * d_log_alpha, sigma, -(alpha**2) * d_log_alpha / sigma


PATHS: Mapping[str, Callable[[Tensor], Coefficients]] = MappingProxyType({"linear": _linear, "gvp": _gvp, "vp": _vp})
require_complete("path", PATHS, get_args(PathName))


def score(point: PathPoint, prediction: PredictionName) -> Affine:
    """Return the gradient of the log-density at x_t, infinite where sigma is 0."""
    if prediction == "score":
        return OUTPUT
    if prediction == "noise":
        return OUTPUT.scaled(-1 / point.sigma)
    # SiT eq. 9 multiplied through by alpha', which is 0 at the data end of GVP.
    scale = 1 / (point.sigma * (point.d_alpha * point.sigma - point.alpha * point.d_sigma))
    return Affine(-point.d_alpha, point.alpha).scaled(scale)


def noise(point: PathPoint, prediction: PredictionName) -> Affine:
    """Return the noise in x_t."""
    return OUTPUT if prediction == "noise" else score(point, prediction).scaled(-point.sigma)


def data(point: PathPoint, prediction: PredictionName) -> Affine:
    """Return the data in x_t by Tweedie's formula, x / alpha + sigma^2 / alpha score.

    From a velocity it is finite even where alpha is 0.
    """
    tweedie = STATE.scaled(1 / point.alpha) + score(point, prediction).scaled(point.sigma**2 / point.alpha)
    if prediction != "velocity" or not bool((point.alpha == 0).any()):
        return tweedie
    # Solved from x = alpha D + sigma e and v = alpha' D + sigma' e.
    scale = 1 / (point.d_sigma * point.alpha - point.sigma * point.d_alpha)
    solved = Affine(point.d_sigma * scale, -point.sigma * scale)
    is_noise = point.alpha == 0
    return Affine(
        torch.where(is_noise, solved.on_state, tweedie.on_state),
        torch.where(is_noise, solved.on_output, tweedie.on_output),
    )


def ode_drift(point: PathPoint, prediction: PredictionName) -> Affine:
    """Return the velocity, dx/dt of the probability-flow ODE."""
    if prediction == "velocity":
        return OUTPUT
    return STATE.scaled(point.rate) + score(point, prediction).scaled(point.variance)


def sde_drift(point: PathPoint, prediction: PredictionName, diffusion: Tensor) -> Affine:
    """Return the drift of the SDE of noise amplitude sqrt(2 diffusion): ODE drift + diffusion * score (SiT eq. 5)."""
    return ode_drift(point, prediction) + score(point, prediction).scaled(diffusion)


def diffusion_of(point: PathPoint, form: DiffusionForm, norm: float) -> Tensor:
    """Return w(t), half the squared noise amplitude of the SDE.

    Args:
        point: The times.
        form: Shape of w. SiT's code names all six, but fails on `constant` (square root of a plain number) and on
            `increasing-decreasing` (its own key is misspelt); both work here.
        norm: Factor of the shape.
    """
    return DIFFUSIONS[form](point, norm)


DIFFUSIONS: Mapping[str, Callable[[PathPoint, float], Tensor]] = MappingProxyType(
    {
        "sigma": lambda point, norm: norm * point.sigma,
        "linear": lambda point, norm: norm * (1 - point.t),
        "sbdm": lambda point, norm: norm * point.variance,
        "decreasing": lambda point, norm: (norm * torch.cos(math.pi * point.t) + 1) ** 2 / 4,
        "increasing-decreasing": lambda point, norm: norm * torch.sin(math.pi * point.t) ** 2,
        "constant": lambda point, norm: torch.full_like(point.t, norm),
    }
)
require_complete("diffusion form", DIFFUSIONS, get_args(DiffusionForm))
