"""Training losses of SiT and DiT, one number per image, as functions of given times and noise.

Source: SiT (arXiv 2401.08740) section 2; Improved DDPM (arXiv 2102.09672) section 3.1; reference-facts 5.7 and 6.
Times: in `intervals.training_interval` for SiT, integers below `gaussian.NUM_TRAIN_TIMESTEPS` for DiT.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import get_args

import torch
from torch import Tensor

from medcli.diffusion import gaussian
from medcli.diffusion.gaussian import GaussianTables, at
from medcli.diffusion.interpolant import PathPoint, over_images, path_point
from medcli.diffusion.steps import Predict
from medcli.errors import require_complete
from medcli.settings.sampler import PathName, PredictionName
from medcli.settings.training import Weighting as Weighting

# Dimension key: B batch, C latent channels, Y X latent height and width.


# Half the width of an 8-bit level of pixels in [-1, 1], and the start of the outermost levels.
HALF_LEVEL = 1 / 255
OUTER_LEVEL = 0.999
LEAST_PROBABILITY = 1e-12


def per_image_mean(value: Tensor) -> Tensor:
    """Average over all axes but the first."""
    return value.flatten(1).mean(1)


def squared_error(value: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared difference of each image, (B,)."""
    return per_image_mean((value - target) ** 2)


@dataclass(frozen=True, slots=True)
class Teacher:
    """A second target for distillation: the output of another network for the same noisy latents."""

    predict: Predict
    """The teacher network; called once per loss."""
    weight: float
    """Weight w of the squared error to the teacher, in [0, 1]; the error to the data has 1 - w."""


def sit_loss(
    predict: Predict,
    data_BCYX: Tensor,
    noise_BCYX: Tensor,
    t_B: Tensor,
    *,
    path: PathName = "linear",
    prediction: PredictionName = "velocity",
    weighting: Weighting = "none",
    teacher: Teacher | None = None,
) -> Tensor:
    """Compute the squared error of a SiT network at the given times.

    With o the output, o' the teacher's and w its weight: velocity (1 - w)(o - u)^2 + w (o - o')^2; noise
    W [(1 - w)(o - noise)^2 + w (o - o')^2]; score W [(1 - w)(sigma o + noise)^2 + w (sigma o - sigma o')^2].

    Args:
        predict: The network; called once.
        data_BCYX: Scaled latents.
        noise_BCYX: Standard normal.
        t_B: float32 times inside the training interval.
        prediction: What the network predicts.
        weighting: Weight W of noise and score losses over time; velocity has none, as in the reference.
        teacher: A second target, for distillation.

    Returns:
        (B,) mean squared error of each image.
    """
    point = path_point(path, t_B)
    x_BCYX = point.noised(data_BCYX, noise_BCYX)
    scale = over_images(point.sigma, x_BCYX) if prediction == "score" else 1.0
    value_BCYX = scale * predict(x_BCYX, t_B)
    error_B = squared_error(value_BCYX, _target(point, prediction, data_BCYX, noise_BCYX))
    if teacher is not None:
        error_B = torch.lerp(error_B, squared_error(value_BCYX, scale * teacher.predict(x_BCYX, t_B)), teacher.weight)
    return _time_weight(point, prediction, weighting) * error_B


def _target(point: PathPoint, prediction: PredictionName, data_BCYX: Tensor, noise_BCYX: Tensor) -> Tensor:
    """Return the target of the output; for score of sigma times the output, which is finite at the data end."""
    return TARGETS[prediction](point, data_BCYX, noise_BCYX)


TARGETS: Mapping[str, Callable[[PathPoint, Tensor, Tensor], Tensor]] = MappingProxyType(
    {
        "velocity": lambda point, data, noise: point.target_velocity(data, noise),
        "noise": lambda point, data, noise: noise,
        "score": lambda point, data, noise: -noise,
    }
)
require_complete("prediction", TARGETS, get_args(PredictionName))


def _time_weight(point: PathPoint, prediction: PredictionName, weighting: Weighting) -> Tensor | float:
    return 1.0 if prediction == "velocity" else WEIGHTINGS[weighting](point)


WEIGHTINGS: Mapping[str, Callable[[PathPoint], Tensor | float]] = MappingProxyType(
    {
        "none": lambda point: 1.0,
        "velocity": lambda point: (point.variance / point.sigma) ** 2,
        "likelihood": lambda point: point.variance / point.sigma**2,
    }
)
require_complete("weighting", WEIGHTINGS, get_args(Weighting))


@dataclass(frozen=True, slots=True)
class DitLoss:
    """The two terms of DiT's loss, (B,) each."""

    mse: Tensor
    """Squared error of the noise, including the teacher's term."""
    vb: Tensor
    """Variational bound of the step in bits per element; trains the variance only; 0 if that is not learned."""

    @property
    def total(self) -> Tensor:
        """Sum of both, the training loss."""
        return self.mse + self.vb


def dit_loss(
    predict: Predict,
    data_BCYX: Tensor,
    noise_BCYX: Tensor,
    t_B: Tensor,
    *,
    tables: GaussianTables,
    teacher: Teacher | None = None,
    min_snr: float | None = None,
) -> DitLoss:
    """Compute the loss of a DiT network at the given timesteps.

    With e the noise channels, e' the teacher's and w its weight: mse = (1 - w)(e - noise)^2 + w (e - e')^2. The bound
    has no teacher's term; it trains the variance channels.

    Args:
        predict: The network; called once.
        data_BCYX: Scaled latents, float32.
        noise_BCYX: Standard normal.
        t_B: int64 timesteps.
        tables: Tables of the full process (`gaussian_tables(respace(""))`), on the same device.
        teacher: A second target, for distillation; it may or may not have variance channels.
        min_snr: Limit of `min_snr_weight` for the squared error, including the teacher's term; None: unweighted.
    """
    x_BCYX = gaussian.q_sample(tables, data_BCYX, noise_BCYX, t_B)
    output = predict(x_BCYX, t_B)
    channels = data_BCYX.shape[1]
    mse_B = squared_error(output[:, :channels], noise_BCYX)
    if teacher is not None:
        guide_BCYX = teacher.predict(x_BCYX, t_B)[:, :channels]
        mse_B = torch.lerp(mse_B, squared_error(output[:, :channels], guide_BCYX), teacher.weight)
    if min_snr is not None:
        mse_B = mse_B * min_snr_weight(tables, t_B, min_snr)
    if output.shape[1] == channels:
        return DitLoss(mse_B, torch.zeros_like(mse_B))
    # The bound must not train the noise prediction: only the variance channels keep their gradient.
    frozen = torch.cat([output[:, :channels].detach(), output[:, channels:]], dim=1)
    return DitLoss(mse_B, variational_bound(tables, data_BCYX, x_BCYX, frozen, t_B))


def min_snr_weight(tables: GaussianTables, t_B: Tensor, limit: float) -> Tensor:
    """Return the weights min(snr, limit) / snr of the squared error, (B,): steps with little noise count less.

    Source: Min-SNR (arXiv 2303.09556), as EDT and MDTv2 train, with limit 5; edt-facts 4.
    """
    noise_by_signal_B = tables.sqrt_recipm1_alphas_cumprod[t_B] ** 2
    return (limit * noise_by_signal_B).clamp(max=1.0).to(torch.float32)


def variational_bound(
    tables: GaussianTables, data_BCYX: Tensor, x_BCYX: Tensor, output: Tensor, index_B: Tensor
) -> Tensor:
    """Compute one term of the variational bound in bits per element, (B,).

    KL(true posterior || model); at index 0 instead the negative log-likelihood of the data in 8-bit levels.
    """
    step = gaussian.p_mean_variance(tables, x_BCYX, output, index_B)
    true_mean = gaussian.posterior_mean(tables, data_BCYX, x_BCYX, index_B)
    true_log_variance = at(tables.posterior_log_variance, index_B, x_BCYX)
    ratio = torch.exp(true_log_variance - step.log_variance)
    shift = (true_mean - step.mean) ** 2 * torch.exp(-step.log_variance)
    divergence_B = per_image_mean((step.log_variance - true_log_variance - 1 + ratio + shift) / 2)
    decoder_B = -per_image_mean(discretised_log_likelihood(data_BCYX, step.mean, step.log_variance / 2))
    return torch.where(index_B == 0, decoder_B, divergence_B) / math.log(2)


def discretised_log_likelihood(data: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Return the log-probability, in nats, of 8-bit data in [-1, 1] under a Gaussian; outermost levels take the tails.

    Args:
        data: Values in [-1, 1].
        mean: Mean of the Gaussian.
        log_scale: Natural logarithm of its standard deviation.
    """
    inverse_scale = torch.exp(-log_scale)
    below_upper = normal_cdf((data - mean + HALF_LEVEL) * inverse_scale)
    below_lower = normal_cdf((data - mean - HALF_LEVEL) * inverse_scale)
    probability = torch.where(data > OUTER_LEVEL, 1 - below_lower, below_upper - below_lower)
    probability = torch.where(data < -OUTER_LEVEL, below_upper, probability)
    return torch.log(probability.clamp(min=LEAST_PROBABILITY))


def normal_cdf(value: Tensor) -> Tensor:
    """Approximate the standard normal distribution function by tanh, as DiT's training does."""
    return (1 + torch.tanh(math.sqrt(2 / math.pi) * (value + 0.044715 * value**3))) / 2
