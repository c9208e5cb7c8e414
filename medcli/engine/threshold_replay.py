"""Replay of the dynamic rule on recorded distances: the step at which each threshold would move each image.

Threshold rho[j] moves an image at the first step after the warm-up whose distance is below rho[j] times the image's
baseline. Thresholds fall, so no image waits for an earlier index and each threshold can be replayed by itself.
Mediators change the network, so the distances of a dynamic run differ slightly from those of the recorded run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from medcli.engine.batched_rule import observe
from medcli.schedule.dynamic import DynamicSchedule

# Dimension key: I images, L solver steps, Q quantiles.

Floats = npt.NDArray[np.float64]

NEVER = -1
"""Switch step of an image that never moves."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trigger:
    """Moves triggered by one threshold."""

    rho: float
    switch_I: npt.NDArray[np.int64]
    """Solver step whose result moves each image, or `NEVER`."""

    @property
    def share(self) -> float:
        """Fraction of images that move at all."""
        return float((self.switch_I != NEVER).mean())

    def quantile(self, level: float) -> int | None:
        """Return the step by which this fraction of all images has moved; None if fewer ever do."""
        rank = max(1, int(np.ceil(level * len(self.switch_I))))
        moved = np.sort(self.switch_I[self.switch_I != NEVER])
        return int(moved[rank - 1]) if rank <= len(moved) else None

    @property
    def mean_step(self) -> float | None:
        """Mean switch step of the images that move; None if none does."""
        moved = self.switch_I[self.switch_I != NEVER]
        return float(moved.mean()) if len(moved) else None


def switch_steps(distance_IL: Floats, rho: float, *, warmup_steps: int, num_deciding: int) -> Trigger:
    """Replay the dynamic rule with one threshold.

    Args:
        distance_IL: Distance of each step, float64, as recorded by `medcli.engine.observer.Distances`.
        rho: The threshold.
        warmup_steps: Distances in the baseline.
        num_deciding: Number of first steps whose result can still change the network of a later one.
    """
    # The counts do not matter here: any ladder of two has one threshold.
    rule = DynamicSchedule(ladder=(1, 4), rho=(rho,), warmup_steps=warmup_steps)
    num_images = len(distance_IL)
    ladder_index_I, warmup_sum_I = (
        torch.zeros(num_images, dtype=torch.int64),
        torch.zeros(num_images, dtype=torch.float64),
    )
    switch_I = torch.full((num_images,), NEVER)
    for step in range(1, num_deciding):
        before_I = ladder_index_I
        observed_I = torch.full((num_images,), step)
        ladder_index_I, warmup_sum_I = observe(
            rule, before_I, warmup_sum_I, observed_I, torch.from_numpy(distance_IL[:, step].copy())
        )
        switch_I[ladder_index_I > before_I] = step
    return Trigger(rho=rho, switch_I=switch_I.numpy())


def triggers(
    distance_IL: Floats, rhos: Sequence[float], *, warmup_steps: int, num_deciding: int
) -> tuple[Trigger, ...]:
    """Replay each threshold with `switch_steps`."""
    return tuple(switch_steps(distance_IL, rho, warmup_steps=warmup_steps, num_deciding=num_deciding) for rho in rhos)


def relative(distance_IL: Floats, warmup_steps: int) -> Floats:
    """Return distances divided by each image's baseline, the mean of its distances 1 to `warmup_steps`.

    NaN where the baseline is 0, and at step 0, which the rule ignores.
    """
    baseline_I = distance_IL[:, 1 : warmup_steps + 1].mean(axis=1)
    parts_IL = distance_IL / np.where(baseline_I > 0, baseline_I, np.nan)[:, None]
    parts_IL[:, 0] = np.nan
    return parts_IL


def quantiles(values_IL: Floats) -> Floats:
    """Return `QUANTILES` over the images at each step, (Q, L); NaN where there is no value."""
    seen_L = ~np.isnan(values_IL).all(axis=0)
    result_QL = np.full((len(QUANTILES), values_IL.shape[1]), np.nan)
    result_QL[:, seen_L] = np.nanquantile(values_IL[:, seen_L], QUANTILES, axis=0)
    return result_QL
