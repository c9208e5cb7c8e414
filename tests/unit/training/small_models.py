"""Toy models that the tests of training share."""

from __future__ import annotations

import torch

from medcli.config import ModelConfig
from medcli.model.backbone import DiffusionTransformer, initialise

LADDER_MODEL = ModelConfig(
    family="sit",
    hidden_size=16,
    depth=2,
    num_heads=2,
    patch_size=1,
    latent_size=4,
    in_channels=1,
    num_classes=3,
    mediators=(1, 4),
    mediator_layers=(0, 1),
    autoencoder=None,
    latent_downsample=1,
)

PIXELS = {"patch_size": 1, "in_channels": 1, "num_classes": 3, "autoencoder": None, "latent_downsample": 1}
EDT_MODEL = ModelConfig(
    family="edt",
    hidden_size=8,
    depth=7,
    num_heads=2,
    latent_size=4,
    stage_depths=(5, 1, 1),
    stage_widths=(8, 12, 8),
    stage_heads=(2, 3, 2),
    **PIXELS,
)
"""Five blocks in its first stage, so that masks reach into it."""
MDT_MODEL = ModelConfig(family="mdtv2", hidden_size=8, depth=3, num_heads=2, latent_size=4, decoder_depth=1, **PIXELS)


def shaken(config: ModelConfig = LADDER_MODEL, seed: int = 0) -> DiffusionTransformer:
    """A model whose every layer matters, which those at the start of training do not."""
    model = DiffusionTransformer(config)
    initialise(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "pos_embed":
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model
