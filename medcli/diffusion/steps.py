"""Solver steps of each sampler, vectorised over images that may be at different steps.

A sampler holds no state: an image is its latent and its step number. The network is any function
`predict(x, t) -> raw output`, guidance included, with t in the family's native time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from medcli.diffusion import gaussian
from medcli.diffusion.gaussian import GaussianTables, at, gaussian_tables, kept_timesteps
from medcli.diffusion.multistep import MultistepRows, multistep_rows, multistep_table
from medcli.diffusion.solver_tables import StepTable, ode_table, sde_table
from medcli.errors import ConfigError
from medcli.settings.sampler import ADAPTIVE_SOLVERS, SamplerConfig

# Dimension key: B batch, C latent channels, Y X latent height and width.

Predict = Callable[[Tensor, Tensor], Tensor]
"""(x_BCYX, t_B) -> the network's raw output; t_B is float32 in [0, 1] for SiT, the original int64 timestep for DiT."""


class Sampler(Protocol):
    """A fixed number of steps from noise to data."""

    @property
    def num_steps(self) -> int:
        """Solver steps of an image, numbered from 0; the last step of the SDE counts as one."""

    @property
    def num_observed(self) -> int:
        """Number of first steps whose states the dynamic schedule observes."""

    @property
    def nfe(self) -> int:
        """Network calls per image in total; the two halves of guidance are one call."""

    @property
    def times(self) -> tuple[float, ...]:
        """Time of each step's first network call."""

    @property
    def num_remembered(self) -> int:
        """Slopes of earlier steps that each step uses: 0 but for multistep solvers."""

    @property
    def noisy(self) -> bool:
        """True if any step uses noise."""

    def takes_noise(self, step: int) -> bool:
        """Return whether a step uses noise."""

    def calls(self, step: int) -> int:
        """Return the number of network calls of a step."""

    def step(
        self,
        predict: Predict,
        x_BCYX: Tensor,
        step_B: Tensor,
        noise_BCYX: Tensor | None,
        *,
        num_calls: int | None = None,
        memory_BMCYX: Tensor | None = None,
    ) -> Tensor:
        """Advance every image by its own step.

        Args:
            x_BCYX: States, float32.
            step_B: int64 step number of each image, on the sampler's device.
            noise_BCYX: Standard normal noise, finite everywhere; None if no image's step uses noise.
            num_calls: Network calls to make: the largest `calls` of the batch. None: the most any step needs, which
                differs only where solvers of several calls end with a step of one.
            memory_BMCYX: Slopes of each image's last `num_remembered` steps, newest first, zeros at its start; updated
                in place. None if the sampler remembers none.

        Returns:
            The next states, float32.
        """


def build_sampler(
    config: SamplerConfig,
    *,
    device: torch.device | str = "cpu",
    reverse: bool = False,
    sample_eps: float | None = None,
    rows: MultistepRows | None = None,
) -> Sampler:
    """Build a fixed-step sampler.

    Args:
        config: The settings. `dopri5` chooses its own steps: use `adaptive.integrate_adaptive`.
        device: Device of the tables and of the tensors passed to `step`.
        reverse: Integrate from data to noise; `ode` only.
        sample_eps: Margin from the singular ends, None for the default of the path and prediction. SiT only.
        rows: Rows of a multistep solver; None: its own.

    Raises:
        ConfigError: If the combination has no fixed-step sampler.
    """
    if config.solver in ADAPTIVE_SOLVERS:
        raise ConfigError(f"{config.solver} is adaptive and has no fixed steps", hint="use --solver heun")
    if reverse and config.sampler != "ode":
        raise ConfigError(f"only the ode sampler runs from data to noise, not {config.sampler}")
    if config.is_multistep:
        rows = rows or multistep_rows(config, reverse=reverse, sample_eps=sample_eps)
        return TransportSampler(multistep_table(config, rows).to(device), config.steps)
    if config.sampler == "ode":
        return TransportSampler(ode_table(config, reverse=reverse, sample_eps=sample_eps).to(device), config.steps - 1)
    if config.sampler == "sde":
        return TransportSampler(sde_table(config, sample_eps=sample_eps).to(device), config.steps - 1)
    tables = gaussian_tables(kept_timesteps(config)).to(device)
    if config.sampler == "ddpm":
        return AncestralSampler(tables)
    if config.sampler == "ddim":
        return DdimSampler(tables, config.eta)
    raise ConfigError(f"sampler {config.sampler!r} is not implemented")


@dataclass(frozen=True, slots=True)
class TransportSampler:
    """Fixed steps of SiT's SDE or ODE, or multistep steps of DiT's ODE, given by a table of `solver_tables`."""

    table: StepTable
    num_observed: int

    @property
    def num_steps(self) -> int:
        """Number of rows of the table."""
        return len(self.table)

    @property
    def nfe(self) -> int:
        """Network calls of all rows."""
        return sum(self.table.calls)

    @property
    def times(self) -> tuple[float, ...]:
        """Times of the rows' first calls."""
        return tuple(self.table.time_LS[:, 0].tolist())

    @property
    def num_remembered(self) -> int:
        """Slopes the rows remember."""
        return self.table.past_LM.shape[1]

    @property
    def noisy(self) -> bool:
        """True if any row uses noise."""
        return any(self.table.is_noisy)

    def takes_noise(self, step: int) -> bool:
        """Return whether the row uses noise."""
        return self.table.is_noisy[step]

    def calls(self, step: int) -> int:
        """Return the number of stages of the row."""
        return self.table.calls[step]

    def step(
        self,
        predict: Predict,
        x_BCYX: Tensor,
        step_B: Tensor,
        noise_BCYX: Tensor | None,
        *,
        num_calls: int | None = None,
        memory_BMCYX: Tensor | None = None,
    ) -> Tensor:
        """See `Sampler.step`; the formulas are in the docstring of `solver_tables`."""
        table = self.table
        if self.num_remembered and memory_BMCYX is None:
            raise ValueError("a multistep solver needs the slopes of earlier steps")
        if noise_BCYX is not None:
            x_BCYX = x_BCYX + at(table.noise_before_L, step_B, x_BCYX) * noise_BCYX
        result_BCYX, slopes = x_BCYX, list[Tensor]()
        if memory_BMCYX is not None:
            result_BCYX = at(table.state_L, step_B, x_BCYX) * x_BCYX
            for place, slope_BCYX in enumerate(memory_BMCYX.unbind(1)):
                result_BCYX = result_BCYX + at(table.past_LM[:, place], step_B, x_BCYX) * slope_BCYX
        for stage in range(max(table.calls) if num_calls is None else num_calls):
            state_BCYX = x_BCYX
            for earlier, slope_BCYX in enumerate(slopes):
                state_BCYX = state_BCYX + at(table.a_LSR[:, stage, earlier], step_B, x_BCYX) * slope_BCYX
            # DiT's output has the variance's channels behind those of the noise.
            output_BCYX = predict(state_BCYX, table.time_LS[step_B, stage])[:, : x_BCYX.shape[1]]
            on_state, on_output = table.on_state_LS[:, stage], table.on_output_LS[:, stage]
            slopes.append(at(on_state, step_B, x_BCYX) * state_BCYX + at(on_output, step_B, x_BCYX) * output_BCYX)
            result_BCYX = result_BCYX + at(table.b_LS[:, stage], step_B, x_BCYX) * slopes[-1]
        if noise_BCYX is not None:
            result_BCYX = result_BCYX + at(table.noise_after_L, step_B, x_BCYX) * noise_BCYX
        if memory_BMCYX is not None:
            memory_BMCYX.copy_(torch.cat([slopes[0][:, None], memory_BMCYX[:, :-1]], dim=1))
        return result_BCYX


@dataclass(frozen=True, slots=True)
class _GaussianSampler(ABC):
    """Common part of DDPM and DDIM: one network call per kept timestep, noisiest first."""

    tables: GaussianTables

    @property
    def num_steps(self) -> int:
        """Number of kept timesteps."""
        return len(self.tables.timesteps)

    @property
    def times(self) -> tuple[float, ...]:
        """Kept timesteps, falling."""
        return tuple(map(float, self.tables.timesteps.flip(0).tolist()))

    num_observed = num_steps
    nfe = num_steps
    num_remembered = 0

    def calls(self, step: int) -> int:
        """Return 1."""
        return 1

    def step(
        self,
        predict: Predict,
        x_BCYX: Tensor,
        step_B: Tensor,
        noise_BCYX: Tensor | None,
        *,
        num_calls: int | None = None,
        memory_BMCYX: Tensor | None = None,
    ) -> Tensor:
        """See `Sampler.step`."""
        index_B = self.num_steps - 1 - step_B
        output = predict(x_BCYX, self.tables.timesteps[index_B]).to(x_BCYX.dtype)
        return self._next(x_BCYX, output, index_B, noise_BCYX)

    @abstractmethod
    def _next(self, x_BCYX: Tensor, output: Tensor, index_B: Tensor, noise_BCYX: Tensor | None) -> Tensor:
        """Return the next states from the network's output at each image's kept timestep, index_B of the tables."""


@dataclass(frozen=True, slots=True)
class AncestralSampler(_GaussianSampler):
    """DDPM: samples each denoising step's Gaussian; the last step takes the mean (DDPM algorithm 2)."""

    @property
    def noisy(self) -> bool:
        """True."""
        return True

    def takes_noise(self, step: int) -> bool:
        """Return true except for the last step, whose noise the references draw and drop."""
        return step < self.num_steps - 1

    def _next(self, x_BCYX: Tensor, output: Tensor, index_B: Tensor, noise_BCYX: Tensor | None) -> Tensor:
        distribution = gaussian.p_mean_variance(self.tables, x_BCYX, output, index_B)
        if noise_BCYX is None:
            return distribution.mean
        is_noisy = (index_B > 0).to(x_BCYX.dtype).view(-1, 1, 1, 1)
        return distribution.mean + is_noisy * torch.exp(0.5 * distribution.log_variance) * noise_BCYX


@dataclass(frozen=True, slots=True)
class DdimSampler(_GaussianSampler):
    """DDIM (arXiv 2010.02502, eq. 12), ignoring the variance channels."""

    eta: float
    """Noise fraction; 0 is deterministic."""

    @property
    def noisy(self) -> bool:
        """True if eta is above 0."""
        return self.eta > 0

    def takes_noise(self, step: int) -> bool:
        """Return true except for the last step, if eta is above 0."""
        return self.noisy and step < self.num_steps - 1

    def _next(self, x_BCYX: Tensor, output: Tensor, index_B: Tensor, noise_BCYX: Tensor | None) -> Tensor:
        noise_seen_BCYX = output[:, : x_BCYX.shape[1]]
        data_BCYX = gaussian.predicted_data(self.tables, x_BCYX, noise_seen_BCYX, index_B)
        abar = at(self.tables.alphas_cumprod, index_B, x_BCYX)
        abar_prev = at(self.tables.alphas_cumprod_prev, index_B, x_BCYX)
        amplitude = self.eta * torch.sqrt((1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev))  # 0 at index 0
        direction_BCYX = torch.sqrt(1 - abar_prev - amplitude**2) * noise_seen_BCYX
        result_BCYX = torch.sqrt(abar_prev) * data_BCYX + direction_BCYX
        return result_BCYX if noise_BCYX is None else result_BCYX + amplitude * noise_BCYX
