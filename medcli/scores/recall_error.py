"""Standard error of recall over draws of the samples, from the recall of random halves of them.

Recall counts reference images inside balls around samples, so it moves with the samples: 40 samples against 1,200
images scatter three times as far as 1,200 independent answers would. A jackknife overstates the error by up to 1.8, as
leaving a sample out enlarges its neighbours' balls; halves were within 0.9 to 1.3 of the scatter (docs/metrics.md).
Dimension key: N samples, M reference images, H halves, B samples at a time, S neighbours, P pairs.
"""

from __future__ import annotations

import torch

from medcli.scores.standard_error import permutation

NUM_HALVES = 64
FIRST_PLACE = 2**21
"""Number of the permutation that makes the first half."""
PAIRS = 2**16
"""Pairs compared at once."""


class RandomHalves:
    """Recall of random halves of the samples, collected over tiles of distances.

    Args:
        num_samples: N.
        num_references: M.
        k: Neighbour whose distance is a ball's radius.
    """

    def __init__(self, num_samples: int, num_references: int, k: int) -> None:
        self._size, self._num_samples, self._k = num_samples // 2, num_samples, k
        self._is_in_NH = torch.zeros(num_samples, NUM_HALVES, dtype=torch.bool)
        for half in range(NUM_HALVES):
            self._is_in_NH[permutation(num_samples, 0, FIRST_PLACE + half)[: self._size], half] = True
        self._ball_NH = torch.full((num_samples, NUM_HALVES), -1.0)
        self._hits_MH = torch.zeros(num_references, NUM_HALVES)

    def add_neighbours(self, index_B: torch.Tensor, place_BS: torch.Tensor, distance_BS: torch.Tensor) -> None:
        """Set the radii of samples in each half: the distance of their k-th neighbour within it.

        Args:
            index_B: Samples.
            place_BS: Their nearest other samples, the nearest first. Fifteen leave one ball in 270 too small.
            distance_BS: Squared distances of these.
        """
        has_k_BSH = self._is_in_NH[place_BS].cumsum(dim=1) >= self._k
        nearest_BH = torch.where(has_k_BSH.any(dim=1), has_k_BSH.int().argmax(dim=1), place_BS.shape[1] - 1)
        ball_BH = distance_BS.gather(1, nearest_BH).float()
        self._ball_NH[index_B] = torch.where(self._is_in_NH[index_B], ball_BH, -1.0)

    def add_tile(self, rows: slice, columns: slice, distance_NM: torch.Tensor, unit: float) -> None:
        """Count reference images inside balls, given squared distances of some samples to some reference images.

        Args:
            columns: The reference images.
            distance_NM: Squared distances times `unit`, on any device.
        """
        ball_NH, hits_MH = self._ball_NH[rows] * unit, self._hits_MH[columns]
        reach_N1 = ball_NH.amax(dim=1, keepdim=True).to(distance_NM)
        pairs = (distance_NM <= reach_N1).nonzero()
        for sample_P, reference_P in (part.unbind(dim=1) for part in pairs.split(PAIRS)):
            distance_P1 = distance_NM[sample_P, reference_P].float().cpu()[:, None]
            hits_MH.index_add_(0, reference_P.cpu(), (distance_P1 <= ball_NH[sample_P.cpu()]).float())

    def deviations(self) -> torch.Tensor | None:
        """(H,) `Estimate.deviations_G`; None if a half has no k-th neighbours."""
        if self._size <= self._k:
            return None
        recall_H = (self._hits_MH > 0).double().mean(dim=0)
        # Of h of N samples without replacement the variance is (1/h - 1/N) / (1/N) times that of N fresh ones.
        scale = (self._size / (self._num_samples - self._size)) ** 0.5
        return (recall_H - recall_H.mean()) * (scale / (NUM_HALVES - 1) ** 0.5)
