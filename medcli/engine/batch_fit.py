"""Batch size that a GPU's memory holds and that leaves few rows of the last batches empty."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medcli.engine.networks import LadderNetwork
from medcli.engine.plan import SamplingPlan, forward_inputs

SMALLEST_PART = 4
"""A GPU's batch is reduced to this part at most, for which a large model's network call is still efficient."""
POOLS = 4
"""Times that the images in flight are exchanged in a run, where there are images enough."""


def even_batch_size(plan: SamplingPlan, num_images: int, *, is_reduced: bool) -> int:
    """Return the batch size, at most the plan's, whose rounds come out: no last round of a few images.

    Images of a dynamic schedule are in several buckets, which run partly empty once no image is left to enter. On a
    GPU the batch is therefore smaller, so that this end is a small part of the run.

    Args:
        plan: Sampling settings.
        num_images: Images one process makes, at least 1.
        is_reduced: Reduce it for dynamic schedules; False where each row costs its time, as on a CPU.
    """
    limit = plan.batch_size
    if is_reduced and plan.schedule.is_dynamic:
        num_buckets = len(plan.schedule.counts) * (2 if plan.guidance.is_partial else 1)
        limit = max(-(-limit // SMALLEST_PART), min(limit, num_images // (POOLS * num_buckets)))
    rounds = -(-num_images // limit)
    return -(-num_images // rounds)


@torch.no_grad()
def fitting_batch_size(networks: Sequence[LadderNetwork], plan: SamplingPlan, device: torch.device) -> int:
    """Halve a plan's batch size until a network call at each ladder index fits the memory of a CUDA device.

    An image depends on it by rounding only. On other devices nothing is tried.

    Args:
        networks: The network of each ladder index.
        plan: Sampling settings.

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
