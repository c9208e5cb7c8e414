"""Fresh weights, as the references start training with."""

from __future__ import annotations

import math
import re

import torch
from torch import nn

from medcli.model.backbone import DiffusionTransformer
from medcli.model.positions import position_table

EMBEDDING_STD = 0.02
NORMAL_NAMES = ("_bias", "embedding_table.weight", "relative_position_bias_table", "mask_token")
"""How tensors end that start as normal noise: mediator and offset biases, labels, what stands in the holes."""
ZERO_NAMES = re.compile(r"^(?!down_|concat_).*blocks\.\d+\.adaLN_modulation|^final_layer")
"""Weights that start at zero. What stands between an EDT's stages does not."""


@torch.no_grad()
def initialise(model: DiffusionTransformer, seed: int) -> None:
    """Fill every parameter in place; the same seed gives the same weights on every device type.

    Linear and patch weights are Xavier uniform with zero biases; label table, time MLP and mediator bias tables normal
    with standard deviation 0.02; depth-wise convolutions uniform in +-1/3; adaLN and the final projection zero, so a
    fresh network returns exactly 0. Source: reference-facts 1.7 and 3.1, edt-facts 1.8.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        fresh = torch.zeros(parameter.shape)
        if name.endswith("pos_embed"):
            fresh = torch.from_numpy(position_table(fresh.shape[2], math.isqrt(fresh.shape[1])))[None]
        elif ".dwc." in name:
            fresh.uniform_(-1 / 3, 1 / 3, generator=generator)
        elif name.endswith(NORMAL_NAMES) or (name.startswith("t_embedder") and fresh.ndim == 2):
            fresh.normal_(std=EMBEDDING_STD, generator=generator)
        elif fresh.ndim >= 2 and not ZERO_NAMES.search(name):
            nn.init.xavier_uniform_(fresh.view(len(fresh), -1), generator=generator)
        parameter.copy_(fresh)
