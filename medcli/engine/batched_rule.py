"""The dynamic rule for many images at once: `DynamicSchedule.observe` on vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from medcli.diffusion.steps import Sampler
from medcli.schedule.dynamic import DynamicSchedule

# Dimension key: B images.


def observe(
    rule: DynamicSchedule, index_B: Tensor, warmup_sum_B: Tensor, observed_B: Tensor, distance_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Take note of one solver step of each image and decide the ladder index of its next.

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
    """How far each image's state moved in one step: (B,) float32 over all its elements.

    Args:
        name: `l1`: mean absolute difference; `l2`: mean squared difference (reference-facts 4, `mae` and `mse`).
        before_BCYX: States before the step.
        after_BCYX: States after it.
    """
    change_BE = (after_BCYX.float() - before_BCYX.float()).flatten(1)
    return (change_BE.abs() if name == "l1" else change_BE.square()).mean(dim=1)


def num_deciding(sampler: Sampler) -> int:
    """First solver steps whose result can still change the ladder index of a later step."""
    return min(sampler.num_observed, sampler.num_steps - 1)
