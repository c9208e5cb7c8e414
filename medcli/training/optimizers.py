"""The optimisers a network may be trained with."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from medcli.training.adan import Adan

OptimizerName = Literal["adamw", "adan"]
NUM_MOMENTS: dict[OptimizerName, int] = {"adamw": 2, "adan": 4}
"""Numbers kept for each that is trained: running means, and Adan's last gradient."""


def optimizer_of(
    parameters: list[nn.Parameter], lr: float, device: torch.device, name: OptimizerName = "adamw"
) -> torch.optim.Optimizer:
    """An optimiser without weight decay, in as few kernels as the device allows.

    On a CPU all parameters go through each operation together (`foreach`), which gives the same bits as one by one;
    AdamW's fused kernel does not, so it is for GPUs.
    """
    if name == "adan":
        return Adan(parameters, lr)
    is_fused = device.type == "cuda"
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0, fused=is_fused, foreach=not is_fused)
