"""Ladder network with mediators in only some of their layers, as converted to these layers."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from medcli.config import ModelConfig
from medcli.engine.networks import LadderNetwork
from medcli.model.backbone import DiffusionTransformer
from medcli.model.block import Block
from medcli.tuning.space import Layers, NetworkVariant

# Dimension key: B batch, N tokens, D model width, C latent channels, Y X latent height and width.


def config_with(config: ModelConfig, layers: Layers) -> ModelConfig:
    """Return the configuration converted to these layers; no layers: full attention."""
    return replace(config, mediators=config.mediators if layers else (), mediator_layers=layers)


def network_of(model: DiffusionTransformer, variant: NetworkVariant) -> LadderNetwork:
    """Return the network of a variant: full attention in the layers that it leaves out.

    Args:
        model: A ladder model; the variant's layers are among its mediator layers.
        variant: Layers and count.
    """
    blocks = model.ordered_blocks()
    chosen = {blocks[layer] for layer in variant.layers}

    def run_block(block: Block, x_BND: Tensor, condition_BD: Tensor, count: int, **joined: Tensor | None) -> Tensor:
        out_BND: Tensor = block(x_BND, condition_BD, count if block in chosen else 0, **joined)
        return out_BND

    def forward(latent_BCYX: Tensor, t_B: Tensor, label_B: Tensor) -> Tensor:
        output_BCYX: Tensor = model(latent_BCYX, t_B, label_B, variant.count, run_block=run_block)
        return output_BCYX

    return LadderNetwork(forward, config_with(model.config, variant.layers), variant.count)
