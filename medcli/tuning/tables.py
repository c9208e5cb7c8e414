"""Single steps of each network from the dense parent's states, and replays of the dynamic rule on them.

A replay runs no network. The rule is exact on the recorded states; the approximation is that images stay on the dense
parent's trajectory, so finalists are run in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt

from medcli.schedule.spec import DistanceName
from medcli.tuning.space import Configuration, NetworkVariant, rounded_up

# Dimension key: V values of a step, K solver steps, I recorded images.

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NUM_PLACES = 9
"""Number of thresholds tried for a move: those that fire after a tenth, two tenths ... of the steps."""


@dataclass(frozen=True, slots=True)
class ChangeTable:
    """Results of one step of a network from each state of the dense parent, with the same noise."""

    values_VKI: Floats
    """The error, then the change of the state by each distance, in the order of `DistanceName`."""

    @property
    def error_KI(self) -> Floats:
        """L2 distance from the state that the parent's own step leads to."""
        return self.values_VKI[0]

    def distance_KI(self, name: DistanceName) -> Floats:
        """Change of the state, as the rule compares it."""
        return self.values_VKI[1 + get_args(DistanceName).index(name)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tables:
    """Measurements that replays need."""

    of_variant: Mapping[NetworkVariant, ChangeTable]
    norm_I: Floats
    """Norm of the final state of each image under full attention."""
    passes_K: Ints
    """Number of forward passes of each solver step."""
    num_deciding: int
    """Number of first steps whose result can change the ladder index of a later step."""
    warmup_steps: int
    distance: DistanceName

    def moves_of(self, configuration: Configuration) -> Ints:
        """Find the step whose result triggers each move along the ladder: (J, I), K for none.

        Applies the rule of `medcli.schedule.dynamic`, to all images at once: O(J K I) comparisons.
        """
        distances = [self.of_variant[variant].distance_KI(self.distance) for variant in configuration.variants]
        num_steps, num_images = distances[0].shape
        baseline_I = distances[0][1 : self.warmup_steps + 1].sum(axis=0) / self.warmup_steps
        step_K1 = np.arange(num_steps)[:, None]
        decides_K1 = (step_K1 > self.warmup_steps) & (step_K1 < self.num_deciding)
        moves_JI = np.full((len(configuration.rho), num_images), num_steps)
        before_I, maker_I = np.zeros(num_images, np.int64), np.zeros(num_images, np.int64)
        for move, rho in enumerate(configuration.rho):
            under = np.stack([made < rho * baseline_I for made in distances])
            # A step that made the move before may make this one, too; later steps are taken at the index it led to.
            fires_KI = np.where(step_K1 == before_I, under[maker_I, :, np.arange(num_images)].T, under[move])
            fires_KI &= decides_K1 & (step_K1 >= before_I)
            moves_JI[move] = np.where(fires_KI.any(axis=0), fires_KI.argmax(axis=0), num_steps)
            maker_I = np.where(moves_JI[move] == before_I, maker_I, move)
            before_I = moves_JI[move]
        return moves_JI

    def costs_of(self, configuration: Configuration, cost_a_pass: Mapping[NetworkVariant, float]) -> Floats:
        """Return the (I,) cost of each image.

        Args:
            configuration: The configuration.
            cost_a_pass: Cost of one image's forward pass through each network.
        """
        spent_K = np.concatenate([[0], np.cumsum(self.passes_K)])
        starts_EI, ends_EI = self._stays(configuration)
        each_E = np.array([cost_a_pass[variant] for variant in configuration.variants])
        costs_I: Floats = (each_E[:, None] * (spent_K[ends_EI] - spent_K[starts_EI])).sum(axis=0)
        return costs_I

    def error_of(self, configuration: Configuration) -> float:
        """Estimate the relative distance of final states from the parent's: the sum of the steps' errors.

        Averaged over the images. To first order a bound, if steps neither grow nor shrink a difference; used for
        ranking only.
        """
        starts_EI, ends_EI = self._stays(configuration)
        image_I = np.arange(starts_EI.shape[1])
        total_I = np.zeros(len(image_I))
        for variant, start_I, end_I in zip(configuration.variants, starts_EI, ends_EI, strict=True):
            error_KI = self.of_variant[variant].error_KI
            sums_KI = np.concatenate([np.zeros((1, len(image_I))), np.cumsum(error_KI, axis=0)])
            total_I += sums_KI[end_I, image_I] - sums_KI[start_I, image_I]
        return float(np.mean(total_I / self.norm_I))

    def thresholds(self, variant: NetworkVariant) -> list[float]:
        """Return thresholds at which the median image, starting with this network, moves at evenly spaced steps."""
        distance_KI = self.of_variant[variant].distance_KI(self.distance)[: self.num_deciding]
        baseline_I = distance_KI[1 : self.warmup_steps + 1].mean(axis=0)
        deciding_KI = distance_KI[self.warmup_steps + 1 :]
        if not len(deciding_KI) or not baseline_I.all():
            return []
        lowest_K = np.median(np.minimum.accumulate(deciding_KI / baseline_I, axis=0), axis=1)
        places = np.linspace(0, len(lowest_K) - 1, NUM_PLACES + 2)[1:-1].round().astype(int)
        # Three digits can be read and typed; rounded up, so that the step they come from does fire.
        return sorted({rounded_up(value, 3) for value in lowest_K[places].tolist() if value > 0})

    def _stays(self, configuration: Configuration) -> tuple[Ints, Ints]:
        """Return the (E, I) first step at each ladder index, and the step after its last."""
        moves_JI = self.moves_of(configuration)
        num_images = moves_JI.shape[1] if len(moves_JI) else self._num_images
        last = len(self.passes_K)
        borders = np.minimum(moves_JI + 1, last).reshape(-1, num_images)
        first, end = np.zeros((1, num_images), np.int64), np.full((1, num_images), last)
        return np.concatenate([first, borders]), np.concatenate([borders, end])

    @property
    def _num_images(self) -> int:
        return next(iter(self.of_variant.values())).error_KI.shape[1]
