"""Improved precision and recall: which points lie inside the other set's nearest-neighbour balls.

Source: Kynkaanniemi et al. 2019 (arXiv 1904.06991), k = 3, squared distances, boundary included (metrics-facts 1.5).
ADM works in float16; this works in float32 on centred features and decides what that leaves open by exact differences
in float64, so counts are exact. Beside the features themselves, memory is that of a few tiles.
Dimension key: N and M rows, D features, P pairs, S candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from medcli.errors import DataError
from medcli.metrics.distances import FastDistances, Frame, exact_distances, fast_distances, frame_of, full_float32
from medcli.metrics.extractor import CPU
from medcli.metrics.moments import check_same_width, finite

NUM_NEIGHBOURS = 3
TILE_ROWS = 2048
TILE_COLUMNS = 1024
NUM_SPARE = 12
"""Candidates looked at beyond the k-th neighbour; where it is uncertain that these suffice, float64 decides."""
RADIUS_ROUNDING = 2.0**-20
"""More than rounding a radius to float32 can move it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionRecall:
    """Counts of covered points and their shares."""

    num_samples_inside: int
    num_samples: int
    num_references_inside: int
    num_references: int

    @property
    def precision(self) -> float:
        """Share of samples inside at least one ball around a reference image."""
        return self.num_samples_inside / self.num_samples

    @property
    def recall(self) -> float:
        """Share of reference images inside at least one ball around a sample."""
        return self.num_references_inside / self.num_references


@full_float32()
def precision_recall(
    samples_ND: torch.Tensor,
    reference_MD: torch.Tensor,
    *,
    k: int = NUM_NEIGHBOURS,
    device: torch.device = CPU,
    told: Callable[[int, int], None] = lambda _done, _total: None,
) -> PrecisionRecall:
    """Count covered points over all rows of both sets.

    Args:
        samples_ND: (N, D) features of any float type.
        reference_MD: (M, D) features.
        k: The neighbour that a ball reaches to.
        device: Where tiles of distances are computed; what is near a tie is decided on the CPU.
        told: Called with the number of rows done and their total, over the three passes.

    Raises:
        DataError: If a set has no more than `k` rows, the widths differ, or a row is not finite.
    """
    check_same_width(samples_ND.shape[1], reference_MD.shape[1])
    fewest = min(len(samples_ND), len(reference_MD))
    if fewest <= k:
        raise DataError(
            f"precision and recall need more than k = {k} images on each side, got "
            f"{len(samples_ND)} and {len(reference_MD)}"
        )
    for rows_ND in (samples_ND, reference_MD):
        for piece in torch.split(rows_ND, TILE_ROWS):
            finite(piece)
    samples, reference = samples_ND.cpu(), reference_MD.cpu()
    frame = frame_of(reference, samples)
    steps = _Steps(told, 2 * len(samples) + len(reference))
    balls_N, balls_M = (_radii(rows, frame, k, device, steps) for rows in (samples, reference))
    covered = _Coverage(samples, reference, balls_N, balls_M, frame)
    for start in range(0, len(samples), TILE_ROWS):
        covered.add_rows(start, min(start + TILE_ROWS, len(samples)), device)
        steps.made(min(TILE_ROWS, len(samples) - start))
    return PrecisionRecall(
        num_samples_inside=int(covered.is_in_N.sum()),
        num_samples=len(samples),
        num_references_inside=int(covered.is_in_M.sum()),
        num_references=len(reference),
    )


class _Steps:
    """Counts rows for whoever watches."""

    def __init__(self, told: Callable[[int, int], None], total: int) -> None:
        self._told, self._done, self._total = told, 0, total

    def made(self, num_rows: int) -> None:
        self._done += num_rows
        self._told(self._done, self._total)


@full_float32()
def radii(rows_ND: torch.Tensor, *, k: int = NUM_NEIGHBOURS, device: torch.device = CPU) -> torch.Tensor:
    """(N,) float64 squared distance of each row to its k-th nearest other row."""
    steps = _Steps(lambda _done, _total: None, len(rows_ND))
    return _radii(rows_ND.cpu(), frame_of(rows_ND.cpu()), k, device, steps)


def _radii(rows_ND: torch.Tensor, frame: Frame, k: int, device: torch.device, steps: _Steps) -> torch.Tensor:
    found = []
    for index_N in torch.split(torch.arange(len(rows_ND)), TILE_ROWS):
        radius_N, is_certain_N = _kth_distances(rows_ND, index_N, frame, k, device, torch.float32)
        if not is_certain_N.all():
            doubtful_N = index_N[~is_certain_N]
            # What float64 leaves open differs by less than its own rounding.
            radius_N[~is_certain_N] = _kth_distances(rows_ND, doubtful_N, frame, k, CPU, torch.float64)[0]
        found.append(radius_N)
        steps.made(len(index_N))
    return torch.cat(found)


def _kth_distances(
    rows_ND: torch.Tensor, index_N: torch.Tensor, frame: Frame, k: int, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) float64 squared distance of the indexed rows to their k-th neighbour, and whether it is surely that."""
    num = min(k + NUM_SPARE, len(rows_ND) - 1)
    placed = frame.place(rows_ND[index_N], device, dtype)
    own_N1 = index_N.to(device).unsqueeze(1)
    low_NS = torch.empty(len(index_N), 0, dtype=dtype, device=device)
    place_NS = torch.empty(len(index_N), 0, dtype=torch.int64, device=device)
    for start in range(0, len(rows_ND), TILE_COLUMNS):
        tile = frame.place(rows_ND[start : start + TILE_COLUMNS], device, dtype)
        low_NM = fast_distances(placed, tile).low()
        place_M = torch.arange(start, start + low_NM.shape[1], device=device)
        low_NM.masked_fill_(place_M == own_N1, torch.inf)
        # The best of the tile first: small pieces to put together, whatever the size of the tile.
        near_NS, picked_NS = low_NM.topk(min(num, low_NM.shape[1]), dim=1, largest=False)
        low_NS, place_NS = torch.cat([low_NS, near_NS], dim=1), torch.cat([place_NS, start + picked_NS], dim=1)
        low_NS, picked_NS = low_NS.topk(min(num, low_NS.shape[1]), dim=1, largest=False)
        place_NS = place_NS.gather(1, picked_NS)
    pair_P = index_N.repeat_interleave(num)
    distances_NS = exact_distances(rows_ND, rows_ND, pair_P, place_NS.cpu().flatten()).view(len(index_N), num)
    radius_N = distances_NS.sort(dim=1).values[:, k - 1]
    # Every row that was passed over is at least as far away as the lower bound of the last candidate.
    passed_N = low_NS[:, -1].cpu().double() / frame.scale**2
    is_certain_N = radius_N <= passed_N if num < len(rows_ND) - 1 else torch.ones(len(index_N), dtype=torch.bool)
    return radius_N, is_certain_N


class _Coverage:
    """Which samples lie in balls of the reference, and the other way round, over the tiles seen so far."""

    def __init__(
        self,
        samples: torch.Tensor,
        reference: torch.Tensor,
        balls_N: torch.Tensor,
        balls_M: torch.Tensor,
        frame: Frame,
    ) -> None:
        self._samples, self._reference, self._balls_N, self._balls_M = samples, reference, balls_N, balls_M
        self._frame = frame
        self.is_in_N = torch.zeros(len(samples), dtype=torch.bool)
        self.is_in_M = torch.zeros(len(reference), dtype=torch.bool)

    def add_rows(self, start: int, stop: int, device: torch.device) -> None:
        """Hold some samples against the whole reference."""
        placed = self._frame.place(self._samples[start:stop], device)
        for first in range(0, len(self._reference), TILE_COLUMNS):
            last = min(first + TILE_COLUMNS, len(self._reference))
            tile = fast_distances(placed, self._frame.place(self._reference[first:last], device))
            rows, columns = slice(start, stop), slice(first, last)
            self._decide(tile, self._balls_M[columns], self.is_in_N[rows], rows, columns)
            self._decide(tile.turned(), self._balls_N[rows], self.is_in_M[columns], columns, rows, is_turned=True)

    def _decide(
        self,
        tile: FastDistances,
        balls_M: torch.Tensor,
        is_in_N: torch.Tensor,
        points: slice,
        centres: slice,
        *,
        is_turned: bool = False,
    ) -> None:
        """Mark, in place, the points of a tile that lie in a ball around one of its centres."""
        ball_M = (balls_M * self._frame.scale**2).to(dtype=tile.found_NM.dtype, device=tile.found_NM.device)
        is_in_N |= (tile.high() <= ball_M * (1 - RADIUS_ROUNDING)).any(dim=1).cpu()
        is_open_NM = (tile.low() <= ball_M * (1 + RADIUS_ROUNDING) + torch.finfo(ball_M.dtype).tiny).cpu()
        is_open_NM &= ~is_in_N.unsqueeze(1)
        left, right = (self._reference, self._samples) if is_turned else (self._samples, self._reference)
        num_at_once = 1
        while is_open_NM.any():
            # One ball settles a point that is inside: most are, and the others have few open ones.
            is_asked_NM = is_open_NM & (is_open_NM.cumsum(dim=1, dtype=torch.int32) <= num_at_once)
            point_P, centre_P = is_asked_NM.nonzero().unbind(dim=1)
            distance_P = exact_distances(left[points], right[centres], point_P, centre_P)
            is_in_N[point_P[distance_P <= balls_M[centre_P]]] = True
            is_open_NM &= ~is_asked_NM & ~is_in_N.unsqueeze(1)
            num_at_once *= 2
