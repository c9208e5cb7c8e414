"""DiT's Gaussian diffusion: noise tables, respacing, and one step's distribution.

Source: DDPM (arXiv 2006.11239), Improved DDPM (arXiv 2102.09672) sections 2 to 4, reference-facts 6.
Indices count *kept* timesteps from 0 (least noise); the network gets the original timestep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from medcli.errors import ConfigError
from medcli.settings.sampler import SamplerConfig

# Dimension key: T kept timesteps, B batch, C latent channels, Y X latent height and width.

NUM_TRAIN_TIMESTEPS = 1000
BETA_START = 1e-4
BETA_END = 0.02


def respace(spec: str, num_train_steps: int = NUM_TRAIN_TIMESTEPS) -> list[int]:
    """Select the timesteps of sampling.

    Args:
        spec: Empty: all. `N`: N timesteps spread from first to last. `a,b,c`: that many from each of equal sections.
            `ddimN`: an integer stride that keeps N.
        num_train_steps: Timesteps of the training process.

    Returns:
        Increasing timestep indices in [0, num_train_steps), starting at 0.

    Raises:
        ConfigError: If the specification cannot be met.

    Source: Improved DDPM section 4; same picks as guided-diffusion's spacing (reference-facts 6).
    """
    if not spec:
        return list(range(num_train_steps))
    number = spec.removeprefix("ddim")
    counts = [int(part) if part.strip().isdecimal() else 0 for part in number.split(",")]
    if min(counts) < 1 or (number != spec and len(counts) > 1):
        raise ConfigError(f"timestep spacing {spec!r}: expected a count, a comma list of counts, or ddimN")
    if number != spec:
        return _strided(counts[0], num_train_steps)
    return _sectioned(counts, num_train_steps)


def _strided(count: int, num_train_steps: int) -> list[int]:
    for stride in range(1, num_train_steps + 1):
        kept = range(0, num_train_steps, stride)
        if len(kept) == count:
            return list(kept)
    raise ConfigError(f"no integer stride keeps {count} of {num_train_steps} timesteps")


def _sectioned(counts: list[int], num_train_steps: int) -> list[int]:
    kept: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        size = num_train_steps // len(counts) + (section < num_train_steps % len(counts))
        if count > size:
            raise ConfigError(f"cannot keep {count} timesteps of a section of {size}")
        stride = (size - 1) / (count - 1) if count > 1 else 1.0
        position = 0.0  # accumulated, not multiplied: the references' rounding depends on it
        for _ in range(count):
            kept.append(start + round(position))
            position += stride
        start += size
    return kept


def kept_timesteps(config: SamplerConfig) -> list[int]:
    """Training timesteps DDPM or DDIM keeps, rising.

    DDIM takes the integer stride its authors use where one keeps `config.steps` timesteps, else spreads them like DDPM;
    with `grid` `logsnr` it spreads them evenly in log-SNR.

    Raises:
        ConfigError: If there are fewer timesteps than asked for.
    """
    if config.steps > NUM_TRAIN_TIMESTEPS:
        raise ConfigError(f"--steps {config.steps}: the model has {NUM_TRAIN_TIMESTEPS} timesteps")
    if config.grid == "logsnr":
        return log_snr_timesteps(config.steps)
    if config.sampler == "ddim":
        stride = -(-NUM_TRAIN_TIMESTEPS // config.steps)
        strided = range(0, NUM_TRAIN_TIMESTEPS, stride)
        if len(strided) == config.steps:
            return list(strided)
    return respace(str(config.steps))


def log_snr_timesteps(count: int) -> list[int]:
    """Rising distinct timesteps, both ends included, whose log-SNR is as evenly spaced as integers allow."""
    abar = gaussian_tables(range(NUM_TRAIN_TIMESTEPS)).alphas_cumprod.numpy()
    log_snr = np.log(abar / (1 - abar))
    wanted = np.linspace(log_snr[0], log_snr[-1], count)
    nearest = np.interp(wanted, log_snr[::-1], np.arange(len(abar), dtype=np.float64)[::-1]).round()
    kept: list[int] = []
    for place, timestep in enumerate(nearest):
        # Next to clean data the log-SNR changes faster than integers can follow.
        above = kept[-1] + 1 if kept else 0
        kept.append(min(len(abar) - count + place, max(int(timestep), above)))
    return kept


@dataclass(frozen=True, slots=True)
class GaussianTables:
    """Coefficients of every kept timestep: (T,) tensors, float64 as built (`timesteps` int64)."""

    timesteps: Tensor
    """Original timestep of each kept one: the network's input."""
    betas: Tensor
    alphas_cumprod: Tensor
    alphas_cumprod_prev: Tensor
    alphas_cumprod_next: Tensor
    sqrt_alphas_cumprod: Tensor
    sqrt_one_minus_alphas_cumprod: Tensor
    sqrt_recip_alphas_cumprod: Tensor
    sqrt_recipm1_alphas_cumprod: Tensor
    log_betas: Tensor
    posterior_variance: Tensor
    posterior_log_variance: Tensor
    """Element 0, which would be log 0, repeats element 1."""
    posterior_mean_coef1: Tensor
    """Factor of x_0."""
    posterior_mean_coef2: Tensor
    """Factor of x_t."""

    def to(self, device: torch.device | str) -> GaussianTables:
        """Move the tables to a device, floats as float32."""
        columns = (getattr(self, field.name) for field in fields(self))
        return GaussianTables(*(c.to(device, torch.float32 if c.is_floating_point() else c.dtype) for c in columns))


def gaussian_tables(timesteps: Sequence[int]) -> GaussianTables:
    """Compute the tables of the process restricted to the given timesteps.

    Args:
        timesteps: At least two rising indices of the 1000-step process, as from `respace`.
    """
    kept = np.asarray(timesteps, dtype=np.int64)
    cumprod = np.cumprod(1 - np.linspace(BETA_START, BETA_END, NUM_TRAIN_TIMESTEPS, dtype=np.float64))[kept]
    betas = 1 - cumprod / np.append(1.0, cumprod[:-1])
    cumprod = np.cumprod(1 - betas)
    previous, following = np.append(1.0, cumprod[:-1]), np.append(cumprod[1:], 0.0)
    posterior_variance = betas * (1 - previous) / (1 - cumprod)
    columns = {
        "timesteps": kept,
        "betas": betas,
        "alphas_cumprod": cumprod,
        "alphas_cumprod_prev": previous,
        "alphas_cumprod_next": following,
        "sqrt_alphas_cumprod": np.sqrt(cumprod),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - cumprod),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / cumprod),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / cumprod - 1),
        "log_betas": np.log(betas),
        "posterior_variance": posterior_variance,
        "posterior_log_variance": np.log(np.append(posterior_variance[1], posterior_variance[1:])),
        "posterior_mean_coef1": betas * np.sqrt(previous) / (1 - cumprod),
        "posterior_mean_coef2": (1 - previous) * np.sqrt(1 - betas) / (1 - cumprod),
    }
    return GaussianTables(**{name: torch.from_numpy(column) for name, column in columns.items()})


def at(table_T: Tensor, index_B: Tensor, like: Tensor) -> Tensor:
    """Look up one number per image, float32, shaped to broadcast over a batch like `like`."""
    return table_T[index_B].to(torch.float32).view(-1, *[1] * (like.ndim - 1))


def q_sample(tables: GaussianTables, data_BCYX: Tensor, noise_BCYX: Tensor, index_B: Tensor) -> Tensor:
    """Add noise up to a timestep: sqrt(abar) x_0 + sqrt(1 - abar) noise (DDPM eq. 4)."""
    signal = at(tables.sqrt_alphas_cumprod, index_B, data_BCYX)
    return signal * data_BCYX + at(tables.sqrt_one_minus_alphas_cumprod, index_B, data_BCYX) * noise_BCYX


def posterior_mean(tables: GaussianTables, data_BCYX: Tensor, x_BCYX: Tensor, index_B: Tensor) -> Tensor:
    """Return the mean of q(x_{t-1} | x_t, x_0) (DDPM eq. 7); its (log) variance is in the tables."""
    weight = at(tables.posterior_mean_coef1, index_B, x_BCYX)
    return weight * data_BCYX + at(tables.posterior_mean_coef2, index_B, x_BCYX) * x_BCYX


@dataclass(frozen=True, slots=True)
class Step:
    """The network's p(x_{t-1} | x_t) and its prediction of the data; all (B, C, Y, X)."""

    mean: Tensor
    log_variance: Tensor
    data: Tensor

    @property
    def variance(self) -> Tensor:
        """Variance of every element."""
        return torch.exp(self.log_variance)


def p_mean_variance(
    tables: GaussianTables, x_BCYX: Tensor, output: Tensor, index_B: Tensor, *, clamp: bool = False
) -> Step:
    """Compute the distribution of a denoising step from the network's output.

    Args:
        tables: Tables of the kept timesteps.
        x_BCYX: State, float32.
        output: (B, 2C, Y, X) noise and variance interpolation v in about [-1, 1], or (B, C, Y, X) noise alone, for
            which the fixed large variance beta is used.
        index_B: Index of each image's kept timestep.
        clamp: Clamp the predicted data to [-1, 1]; DiT's sampling does not.
    """
    channels = x_BCYX.shape[1]
    data_BCYX = predicted_data(tables, x_BCYX, output[:, :channels], index_B)
    if clamp:
        data_BCYX = data_BCYX.clamp(-1, 1)
    return Step(
        mean=posterior_mean(tables, data_BCYX, x_BCYX, index_B),
        log_variance=log_variance(tables, x_BCYX, output, index_B),
        data=data_BCYX,
    )


def predicted_data(tables: GaussianTables, x_BCYX: Tensor, noise_BCYX: Tensor, index_B: Tensor) -> Tensor:
    """Predict x_0 from the state and its noise: sqrt(1/abar) x - sqrt(1/abar - 1) noise."""
    scale = at(tables.sqrt_recip_alphas_cumprod, index_B, x_BCYX)
    return scale * x_BCYX - at(tables.sqrt_recipm1_alphas_cumprod, index_B, x_BCYX) * noise_BCYX


def log_variance(tables: GaussianTables, x_BCYX: Tensor, output: Tensor, index_B: Tensor) -> Tensor:
    """Return the log variance of a denoising step, between the posterior's and log beta (Improved DDPM eq. 15)."""
    floor = at(tables.posterior_log_variance, index_B, x_BCYX)
    ceiling = at(tables.log_betas, index_B, x_BCYX)
    channels = x_BCYX.shape[1]
    if output.shape[1] == channels:
        # DDPM section 3.2's fixed large variance; at index 0 beta would add noise to the finished image.
        return torch.where(index_B.view(-1, 1, 1, 1) == 0, floor, ceiling).expand_as(x_BCYX)
    fraction = (output[:, channels:] + 1) / 2
    return fraction * ceiling + (1 - fraction) * floor
