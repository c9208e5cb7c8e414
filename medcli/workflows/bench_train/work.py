"""The batches two training loops are compared on: the same images, noise, times and labels for both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medcli.config import ModelConfig
from medcli.data.autoencoder import LatentEncoder, open_encoder
from medcli.data.training_set import ArraySet
from medcli.errors import ConfigError
from medcli.runtime.reporting import Reporter
from medcli.training.batches import Batches
from medcli.training.config import TrainConfig
from medcli.workflows.bench_train.plain import PlainBatch

# Dimension key: N images in all, B of a batch, C channels, Y X height and width.

SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingWork:
    """Images for all steps, each used once."""

    config: ModelConfig
    latents: ArraySet
    """What our loop trains on."""
    device: torch.device
    encoder: LatentEncoder | None = None
    images_NCYX: Tensor | None = None
    """What the plain loop encodes; None: it has the latents."""
    posterior_NCYX: Tensor | None = None
    """Noise of the autoencoder's samples."""

    def batches(self, config: TrainConfig) -> Batches:
        """Our loop's batches."""
        return Batches.of(self.latents, config, self.config, device=self.device)

    def plain_batch(self, config: TrainConfig, step: int) -> PlainBatch:
        """The plain loop's batch of a step, on the device."""
        batches = self.batches(config)
        drawn = batches.draw(step)
        if self.images_NCYX is None:
            return PlainBatch(
                data_BCYX=drawn.data_BCYX, noise_BCYX=drawn.noise_BCYX, t_B=drawn.t_B, label_B=drawn.label_B
            )
        assert self.posterior_NCYX is not None  # comes with the images
        pick_B = batches.order.picks(batches.positions(step))
        return PlainBatch(
            data_BCYX=self.images_NCYX[pick_B].to(self.device),
            noise_BCYX=drawn.noise_BCYX,
            t_B=drawn.t_B,
            label_B=drawn.label_B,
            posterior_BCYX=self.posterior_NCYX[pick_B].to(self.device),
        )


def training_work(
    config: ModelConfig, batch_size: int, num_steps: int, device: torch.device, *, vae: str | None, reporter: Reporter
) -> TrainingWork:
    """Make random latents or, with an autoencoder, random images and their latents.

    Args:
        config: The network.
        batch_size: Images of a step.
        num_steps: Steps each loop does.
        device: Where the network is.
        vae: The autoencoder; None: latents alone.
        reporter: Told about images encoded.

    Raises:
        ConfigError: If the network takes no latents, or those of another autoencoder.
        EnvironmentProblem: If the autoencoder is not there.
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
    for first in range(0, num_images, batch_size):
        mean, log_variance = encoder.moments(images_NCYX[first : first + batch_size]).chunk(2, dim=1)
        drawn = mean + torch.exp(0.5 * log_variance) * posterior_NCYX[first : first + batch_size]
        parts.append((drawn - config.latent_shift) * config.latent_scale)
        reporter.progress(min(first + batch_size, num_images), num_images, "images")
    return TrainingWork(
        config=config,
        latents=ArraySet("random", torch.cat(parts), label_N),
        device=device,
        encoder=encoder,
        images_NCYX=images_NCYX,
        posterior_NCYX=posterior_NCYX,
    )
