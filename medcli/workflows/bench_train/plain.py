"""A training step as the papers' scripts write it: the opponent `medcli bench --train` measures against.

Float32 (TF32 on CUDA, as their scripts set it), a network whose mediator attention writes every softmax out, images
encoded in every step where there is an autoencoder, AdamW as torch makes it, the moving average one parameter after the
other, and the loss read off after each step. There is no clipping. Nothing that makes `medcli.training` faster makes
this faster.

Source: reference-facts 3.4, 5.7 and 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medcli.config import ModelConfig
from medcli.data.autoencoder import LatentEncoder
from medcli.diffusion.gaussian import gaussian_tables, respace
from medcli.diffusion.losses import dit_loss, sit_loss
from medcli.engine.papers_network import PlainNetwork
from medcli.runtime.precision import tf32
from medcli.training.selection import FIXED

# Dimension key: B images of a batch, C channels, Y X height and width.


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainBatch:
    """What a step of the scripts gets; noise is drawn beforehand, so that both sides see the same."""

    data_BCYX: Tensor
    """Model latents or, where they are to be encoded, images in [-1, 1]."""
    noise_BCYX: Tensor
    t_B: Tensor
    label_B: Tensor
    posterior_BCYX: Tensor | None = None
    """Noise of the autoencoder's samples; None where nothing is encoded."""


class PlainTraining:
    """A network in training.

    Args:
        weights: Its state dict, on the device; copied.
        config: The network.
        num_mediators: The count it is trained at, 0 for full attention.
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
        self._network = PlainNetwork(self._weights, config, num_mediators)
        self._optimizer = torch.optim.AdamW(self._weights.values(), lr=lr, weight_decay=0.0)
        self._device = self._weights[FIXED].device
        self._tables = gaussian_tables(respace("")).to(self._device) if config.family == "dit" else None

    def step(self, batch: PlainBatch) -> float:
        """Do one step; returns its loss, so the device is waited for."""
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
        """Gradients that are still held: the scripts drop them at the beginning of the next step."""
        return sum(weight.grad.nbytes for weight in self._weights.values() if weight.grad is not None)

    def _loss(self, batch: PlainBatch) -> Tensor:
        """(B,) losses."""
        data_BCYX = batch.data_BCYX if self._encoder is None else self._encoded(batch, self._encoder)

        def predict(x_BCYX: Tensor, t_B: Tensor) -> Tensor:
            return self._network(x_BCYX, t_B, batch.label_B)

        if self._tables is not None:
            return dit_loss(predict, data_BCYX, batch.noise_BCYX, batch.t_B, tables=self._tables).total
        return sit_loss(predict, data_BCYX, batch.noise_BCYX, batch.t_B)

    @torch.no_grad()
    def _encoded(self, batch: PlainBatch, encoder: LatentEncoder) -> Tensor:
        """Scaled samples of the images' latents, as `vae.encode(x).latent_dist.sample()` gives them."""
        posterior = encoder.autoencoder.encode(batch.data_BCYX).latent_dist
        assert batch.posterior_BCYX is not None  # given with every image
        latents_BCYX: Tensor = posterior.mean + posterior.std * batch.posterior_BCYX
        return (latents_BCYX - self._config.latent_shift) * self._config.latent_scale
