"""Calibration inputs: states of a short sampling run with full attention, so that no data are needed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medcli.diffusion.steps import Sampler, build_sampler
from medcli.errors import CheckpointError
from medcli.model.backbone import DiffusionTransformer
from medcli.runtime.noise import Stream, integers, normal
from medcli.settings.sampler import SamplerConfig
from medcli.training.objective import PLAIN_LOSS, LossConfig

# Dimension key: I images, R rows = I images x times, C channels, Y X latent height and width.

NULL_EVERY = 10
"""One image in ten is unconditional, as in training with label dropout 0.1."""


@dataclass(frozen=True, slots=True)
class NoiseStates:
    """Inputs of the network, on its device; rows of one time are adjacent, the noisiest time first."""

    x_RCYX: Tensor
    t_R: Tensor
    label_R: Tensor

    def __len__(self) -> int:
        return len(self.t_R)

    def followed_by(self, other: NoiseStates) -> NoiseStates:
        """Concatenate with other inputs."""
        pairs = zip((self.x_RCYX, self.t_R, self.label_R), (other.x_RCYX, other.t_R, other.label_R), strict=True)
        return NoiseStates(*(torch.cat(pair) for pair in pairs))

    def rows(self, rows: Tensor | slice) -> NoiseStates:
        """Select rows."""
        return NoiseStates(self.x_RCYX[rows], self.t_R[rows], self.label_R[rows])


@torch.no_grad()
def noise_states(
    model: DiffusionTransformer, images: range, *, seed: int, num_times: int, loss: LossConfig = PLAIN_LOSS
) -> NoiseStates:
    """Sample with full attention in a few steps and return all intermediate states.

    Pure noise is a valid input only at the noisiest time; a short sampling run gives states of all times. SiT takes
    Euler steps of the ODE, DiT DDIM steps without noise.

    Args:
        model: Any model; its count 0 is used.
        images: Image numbers; an image's states do not depend on the others.
        seed: Random seed of initial noise and labels.
        num_times: Number of steps.
        loss: Path and prediction of a SiT model.

    Raises:
        CheckpointError: If the states are not finite.
    """
    config, device = model.config, model.pos_embed.device
    number_I = torch.tensor(images, device=device)
    zero_I = torch.zeros_like(number_I)
    shape = (config.in_channels, config.latent_size, config.latent_size)
    x_ICYX = normal(seed, number_I, zero_I, shape, Stream.CALIBRATION)
    label_I = integers(seed, number_I, zero_I + 1, config.num_classes, Stream.CALIBRATION)
    if config.has_null_class:
        label_I = torch.where(number_I % NULL_EVERY == NULL_EVERY - 1, config.null_class, label_I)
    seen: list[tuple[Tensor, Tensor]] = []

    def predict(x_BCYX: Tensor, t_B: Tensor) -> Tensor:
        seen.append((x_BCYX, t_B))
        output: Tensor = model(x_BCYX, t_B, label_I, 0)
        return output

    sampler = _sampler(model, num_times, loss, device)
    for step in range(num_times):
        x_ICYX = sampler.step(predict, x_ICYX, torch.full_like(number_I, step), None)
    if not bool(x_ICYX.isfinite().all()):
        raise CheckpointError(
            "full attention of this network gives NaN or infinite states, to which nothing can be fitted",
            hint="check --family, --path and --prediction; medcli sample --schedule full tells more",
        )
    states, times = zip(*seen, strict=True)
    return NoiseStates(torch.cat(states), torch.cat(times), label_I.repeat(num_times))


def _sampler(model: DiffusionTransformer, num_times: int, loss: LossConfig, device: torch.device) -> Sampler:
    if model.config.is_gaussian:
        return build_sampler(SamplerConfig(sampler="ddim", steps=num_times), device=device)
    # An ODE of n grid points takes n - 1 steps.
    ode = SamplerConfig(sampler="ode", solver="euler", steps=num_times + 1, path=loss.path, prediction=loss.prediction)
    return build_sampler(ode, device=device)
