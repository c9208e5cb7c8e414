"""The dynamic rule for many images at once: `DynamicSchedule.observe` on vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import get_args

import torch
from torch import Tensor

from medcli.diffusion.steps import Sampler
from medcli.errors import require_complete
from medcli.schedule.dynamic import DynamicSchedule
from medcli.schedule.spec import DistanceName

# Dimension key: B images, E elements of a state.

DISTANCES: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType({"l1": Tensor.abs, "l2": Tensor.square})
"""Elementwise part of each distance, a mean over the state. Source: reference-facts 4 (`mae` and `mse`)."""
require_complete("distance", DISTANCES, get_args(DistanceName))


def observe(
    rule: DynamicSchedule, index_B: Tensor, warmup_sum_B: Tensor, observed_B: Tensor, distance_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Observe one solver step of each image and decide the ladder index of its next.

    Args:
        rule: Thresholds and warm-up.
        index_B: int64 ladder index of each image.
        warmup_sum_B: float64 sum of each image's warm-up distances.
        observed_B: int64 distances each image has seen, this one included.
        distance_B: float64 distance between each image's last two states.

    Returns:
        New ladder indices and warm-up sums. Equal to `DynamicSchedule.observe` image by image, bit for bit: Python
        floats are float64 too.
    """
    warming_B = observed_B <= rule.warmup_steps
    warmup_sum_B = torch.where(warming_B, warmup_sum_B + distance_B, warmup_sum_B)
    baseline_B = warmup_sum_B / rule.warmup_steps
    for ladder_index, threshold in enumerate(rule.rho):
        # In rising order, so that an image may climb several indices at once.
        index_B = index_B + (~warming_B & (index_B == ladder_index) & (distance_B < threshold * baseline_B))
    return index_B, warmup_sum_B


def distance(name: str, before_BCYX: Tensor, after_BCYX: Tensor) -> Tensor:
    """Distance between each image's states before and after a step: (B,) float32, a mean over all elements.

    Args:
        name: `l1`: mean absolute difference; `l2`: mean squared difference.
        before_BCYX: States before the step.
        after_BCYX: States after it.
    """
    change_BE = (after_BCYX.float() - before_BCYX.float()).flatten(1)
    return DISTANCES[name](change_BE).mean(dim=1)


def num_deciding(sampler: Sampler) -> int:
    """Number of first solver steps whose result can still change the ladder index of a later step."""
    return min(sampler.num_observed, sampler.num_steps - 1)
