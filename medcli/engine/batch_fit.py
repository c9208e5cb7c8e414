"""Batch size that a GPU's memory holds."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medcli.engine.networks import LadderNetwork
from medcli.engine.plan import SamplingPlan, forward_inputs


@torch.no_grad()
def fitting_batch_size(networks: Sequence[LadderNetwork], plan: SamplingPlan, device: torch.device) -> int:
    """Halve a plan's batch size until a network call at each ladder index fits the memory of a CUDA device.

    An image depends on it by rounding only. On other devices nothing is tried.

    Args:
        networks: The network of each ladder index.
        plan: Sampling settings.
        device: Device of the networks.

    Raises:
        torch.OutOfMemoryError: If not even one image fits.
    """
    size = plan.batch_size
    while device.type == "cuda":
        try:
            for network in networks:
                network.forward(*forward_inputs(network, size * plan.guidance.num_halves, device))
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            torch.cuda.empty_cache()
            size //= 2
            continue
        break
    return size
