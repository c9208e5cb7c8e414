"""Training step as the papers' scripts write it, and the batches that both training loops are compared on.

The baseline of `bench_papers.py --train`: float32 (TF32 on CUDA), explicit softmax, images encoded in every step (with
an autoencoder), torch's AdamW, the moving average updated per parameter, the loss read after each step, no clipping.
Optimisations of `medcli.training` do not speed it up.

Source: reference-facts 3.4, 5.7 and 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medcli.config import ModelConfig
from medcli.data.autoencoder import LatentEncoder, open_encoder
from medcli.data.training_set import ArraySet
from medcli.diffusion.gaussian import gaussian_tables, respace
from medcli.diffusion.losses import dit_loss, sit_loss
from medcli.errors import ConfigError
from medcli.runtime.precision import tf32
from medcli.training.batches import Batches
from medcli.training.config import TrainConfig
from medcli.training.selection import FIXED
from papers_network import PapersNetwork

# Dimension key: N images in all, B of a batch, C channels, Y X height and width.

SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class PapersBatch:
    """Input of a step; noise and times are drawn in advance, so that both loops get the same."""

    data_BCYX: Tensor
    """Latents or, with an autoencoder, images in [-1, 1]."""
    noise_BCYX: Tensor
    t_B: Tensor
    label_B: Tensor
    posterior_BCYX: Tensor | None = None
    """Noise of the autoencoder's posterior samples; None without an autoencoder."""


class PapersTraining:
    """Training loop of the papers' scripts.

    Args:
        weights: State dict, on the device; copied.
        config: The network.
        num_mediators: Mediator count, 0 for full attention.
        lr: AdamW's learning rate.
        ema: Decay of the moving average.
        encoder: Encodes images in each step; None: the data are latents.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        config: ModelConfig,
        num_mediators: int,
        *,
        lr: float,
        ema: float,
        encoder: LatentEncoder | None = None,
    ) -> None:
        self._config, self._decay, self._encoder = config, ema, encoder
        self._weights = {name: value.clone().requires_grad_(name != FIXED) for name, value in weights.items()}
        self._averages = {name: value.detach().clone() for name, value in self._weights.items()}
        self._network = PapersNetwork(self._weights, config, num_mediators)
        self._optimizer = torch.optim.AdamW(self._weights.values(), lr=lr, weight_decay=0.0)
        self._device = self._weights[FIXED].device
        self._tables = gaussian_tables(respace("")).to(self._device) if config.family == "dit" else None

    def step(self, batch: PapersBatch) -> float:
        """Run one step and return its loss; synchronises the device."""
        with tf32(self._device):
            loss = self._loss(batch).mean()
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
        for name, average in self._averages.items():
            average.mul_(self._decay).add_(self._weights[name].data, alpha=1 - self._decay)
        return float(loss.item())

    @property
    def gradient_bytes(self) -> int:
        """Size of the gradients, which the scripts keep until the next step."""
        return sum(weight.grad.nbytes for weight in self._weights.values() if weight.grad is not None)

    def _loss(self, batch: PapersBatch) -> Tensor:
        """Return the (B,) losses."""
        data_BCYX = batch.data_BCYX if self._encoder is None else self._encoded(batch, self._encoder)

        def predict(x_BCYX: Tensor, t_B: Tensor) -> Tensor:
            return self._network(x_BCYX, t_B, batch.label_B)

        if self._tables is not None:
            return dit_loss(predict, data_BCYX, batch.noise_BCYX, batch.t_B, tables=self._tables).total
        return sit_loss(predict, data_BCYX, batch.noise_BCYX, batch.t_B)

    @torch.no_grad()
    def _encoded(self, batch: PapersBatch, encoder: LatentEncoder) -> Tensor:
        """Draw scaled latents of the images, as `vae.encode(x).latent_dist.sample()` does."""
        posterior = encoder.autoencoder.encode(batch.data_BCYX).latent_dist
        assert batch.posterior_BCYX is not None  # drawn along with the images
        latents_BCYX: Tensor = posterior.mean + posterior.std * batch.posterior_BCYX
        return (latents_BCYX - self._config.latent_shift) * self._config.latent_scale


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingWork:
    """Data of all steps, each image used once."""

    config: ModelConfig
    latents: ArraySet
    """Training set of our loop."""
    device: torch.device
    encoder: LatentEncoder | None = None
    images_NCYX: Tensor | None = None
    """Images that the papers' loop encodes; None: it gets the latents."""
    posterior_NCYX: Tensor | None = None
    """Noise of the autoencoder's posterior samples."""

    def batches(self, config: TrainConfig) -> Batches:
        """Return the batches of our loop."""
        return Batches.of(self.latents, config, self.config, device=self.device)

    def papers_batch(self, config: TrainConfig, step: int) -> PapersBatch:
        """Return the papers' batch of a step, on the device."""
        batches = self.batches(config)
        drawn = batches.draw(step)
        data_BCYX, posterior_BCYX = drawn.data_BCYX, None
        if self.images_NCYX is not None and self.posterior_NCYX is not None:
            pick_B = batches.order.picks(batches.positions(step))
            data_BCYX = self.images_NCYX[pick_B].to(self.device)
            posterior_BCYX = self.posterior_NCYX[pick_B].to(self.device)
        return PapersBatch(
            data_BCYX=data_BCYX,
            noise_BCYX=drawn.noise_BCYX,
            t_B=drawn.t_B,
            label_B=drawn.label_B,
            posterior_BCYX=posterior_BCYX,
        )


def training_work(
    config: ModelConfig, batch_size: int, num_steps: int, device: torch.device, *, vae: str | None
) -> TrainingWork:
    """Draw random latents or, with an autoencoder, random images and encode them.

    Args:
        config: The network.
        batch_size: Number of images of a step.
        num_steps: Number of steps of each loop.
        device: Where the network is.
        vae: The autoencoder; None: latents only.

    Raises:
        ConfigError: If the network takes no latents, or those of another autoencoder.
        EnvironmentProblem: If the autoencoder is missing.
    """
    num_images = batch_size * num_steps
    generator = torch.Generator().manual_seed(SEED)
    label_N = torch.arange(num_images) % config.num_classes
    shape = (config.in_channels, config.latent_size, config.latent_size)
    if vae is None:
        latents = torch.randn(num_images, *shape, generator=generator)
        return TrainingWork(config=config, latents=ArraySet("random", latents, label_N), device=device)
    if config.autoencoder is None:
        raise ConfigError("this model takes pixels, not latents", hint="leave --vae out")
    encoder = open_encoder(vae, config=config, device=device)
    side = config.resolution_px
    images_NCYX = torch.rand(num_images, encoder.image_channels, side, side, generator=generator) * 2 - 1
    posterior_NCYX = torch.randn(num_images, *shape, generator=generator)
    parts = []
    for images_BCYX, noise_BCYX in zip(images_NCYX.split(batch_size), posterior_NCYX.split(batch_size), strict=True):
        mean, log_variance = encoder.moments(images_BCYX).chunk(2, dim=1)
        drawn = mean + torch.exp(0.5 * log_variance) * noise_BCYX
        parts.append((drawn - config.latent_shift) * config.latent_scale)
    return TrainingWork(
        config=config,
        latents=ArraySet("random", torch.cat(parts), label_N),
        device=device,
        encoder=encoder,
        images_NCYX=images_NCYX,
        posterior_NCYX=posterior_NCYX,
    )
