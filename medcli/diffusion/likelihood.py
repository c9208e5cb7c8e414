"""Log-likelihood of data under the probability-flow ODE, with Hutchinson's trace estimator.

Source: Score SDE (arXiv 2011.13456) section 4.3; reference-facts 5.6.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from medcli.diffusion.adaptive import REFERENCE_ATOL, REFERENCE_RTOL, Field, ode_field, solve
from medcli.diffusion.steps import Predict
from medcli.sampler_config import SamplerConfig

# Dimension key: B batch, C latent channels, Y X latent height and width.


def log_likelihood(
    predict: Predict,
    data_BCYX: Tensor,
    config: SamplerConfig,
    draw_signs: Callable[[], Tensor],
    *,
    atol: float = REFERENCE_ATOL,
    rtol: float = REFERENCE_RTOL,
) -> tuple[Tensor, Tensor]:
    """Encode data to noise and add up how volumes change on the way.

    Args:
        predict: The network, differentiable; not guided (a guided field belongs to no density).
        data_BCYX: Scaled latents, float32.
        config: With sampler `ode`.
        draw_signs: Called once per evaluation of the field; returns +-1 entries shaped like the data.
        atol: As for `integrate_adaptive`.
        rtol: As for `integrate_adaptive`.

    Returns:
        (B,) log-likelihoods in nats of the whole latent, and the (B, C, Y, X) noise the data came from.
    """
    field = ode_field(predict, config)

    def with_divergence(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return velocity_and_divergence(field, t, state[0], draw_signs())

    start = (data_BCYX, torch.zeros(len(data_BCYX), device=data_BCYX.device))
    path, log_volume = solve(
        with_divergence, start, config, num_points=config.steps, reverse=True, atol=atol, rtol=rtol
    )
    noise_BCYX = path[-1]
    size = noise_BCYX[0].numel()
    log_normal_B = -(noise_BCYX.flatten(1) ** 2).sum(1) / 2 - size * math.log(2 * math.pi) / 2
    # Integrated from data to noise, log_volume is minus the divergence's integral over rising time.
    return log_normal_B + log_volume[-1], noise_BCYX


def velocity_and_divergence(field: Field, t: Tensor, x_BCYX: Tensor, signs_BCYX: Tensor) -> tuple[Tensor, Tensor]:
    """Velocity, and the unbiased estimate e . grad_x(velocity . e) of its divergence: (B,)."""
    with torch.enable_grad():
        x_BCYX = x_BCYX.detach().requires_grad_()
        velocity_BCYX = field(t, x_BCYX)
        (gradient_BCYX,) = torch.autograd.grad((velocity_BCYX * signs_BCYX).sum(), x_BCYX)
    return velocity_BCYX.detach(), (gradient_BCYX * signs_BCYX).flatten(1).sum(1)
