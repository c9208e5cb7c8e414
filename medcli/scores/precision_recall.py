"""Improved precision and recall: shares of points inside the other set's nearest-neighbour balls.

Source: Kynkaanniemi et al. 2019 (arXiv 1904.06991), k = 3, squared distances, boundary included (metrics-facts 1.5).
ADM computes distances in float16; here they are float32 on centred features, and pairs within the error bound are
decided by exact differences in float64, so counts are exact. Memory beside the features: a few tiles.
Dimension key: N and M rows, D features, P pairs, S candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from medcli.errors import DataError
from medcli.runtime.precision import float32_products
from medcli.scores.distances import Frame, Tiles, exact_distances, frame_of
from medcli.scores.extractor import CPU
from medcli.scores.moments import check_same_width, finite
from medcli.scores.recall_error import RandomHalves

NUM_NEIGHBOURS = 3
TILE_ROWS = 2048
TILE_COLUMNS = 1024
NUM_SPARE = 12
"""Candidates kept beyond the k-th neighbour; if they may not suffice, distances are recomputed in float64."""
RADIUS_ROUNDING = 2.0**-20
"""Upper bound of the relative error of a radius rounded to float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionRecall:
    """Counts of covered points and their shares."""

    num_samples_inside: int
    num_samples: int
    num_references_inside: int
    num_references: int
    is_inside_N: torch.Tensor = field(compare=False, repr=False)
    """Samples inside at least one ball around a reference image."""
    recall_deviations_G: torch.Tensor | None = field(default=None, compare=False, repr=False)
    """Parts of the standard error of recall, see `recall_error`."""

    @property
    def precision(self) -> float:
        """Share of samples inside at least one ball around a reference image."""
        return self.num_samples_inside / self.num_samples

    @property
    def recall(self) -> float:
        """Share of reference images inside at least one ball around a sample."""
        return self.num_references_inside / self.num_references

    @property
    def precision_deviations_N(self) -> torch.Tensor:
        """Parts of the standard error of precision: that of N independent answers."""
        return (self.is_inside_N.double() - self.precision) / self.num_samples


@float32_products("highest")
def precision_recall(
    samples_ND: torch.Tensor,
    reference_MD: torch.Tensor,
    *,
    k: int = NUM_NEIGHBOURS,
    device: torch.device = CPU,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> PrecisionRecall:
    """Count covered points over all rows of both sets.

    Args:
        samples_ND: (N, D) features of any float type.
        reference_MD: (M, D) features.
        k: Neighbour whose distance is the ball's radius.
        device: Where tiles of distances are computed; near ties are decided on the CPU.
        on_progress: Called with the number of rows done and their total, over the three passes.

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
    samples, reference = finite(samples_ND).cpu(), finite(reference_MD).cpu()
    frame = frame_of(reference, samples)
    counter = _RowCounter(on_progress, 2 * len(samples) + len(reference))
    halves = RandomHalves(len(samples), len(reference), k)
    balls_N, balls_M = _radii(samples, frame, k, device, counter, halves), _radii(reference, frame, k, device, counter)
    coverage = _Coverage(samples, reference, balls_N, balls_M, frame, halves)
    for num_rows in coverage.passes(device):
        counter.add(num_rows)
    return PrecisionRecall(
        num_samples_inside=int(coverage.is_in_N.sum()),
        num_samples=len(samples),
        num_references_inside=int(coverage.is_in_M.sum()),
        num_references=len(reference),
        is_inside_N=coverage.is_in_N,
        recall_deviations_G=halves.deviations(),
    )


class _RowCounter:
    """Progress counter of rows."""

    def __init__(self, on_progress: Callable[[int, int], None], total: int) -> None:
        self._on_progress, self._done, self._total = on_progress, 0, total

    def add(self, num_rows: int) -> None:
        self._done += num_rows
        self._on_progress(self._done, self._total)


@float32_products("highest")
def radii(rows_ND: torch.Tensor, *, k: int = NUM_NEIGHBOURS, device: torch.device = CPU) -> torch.Tensor:
    """(N,) float64 squared distance of each row to its k-th nearest other row."""
    counter = _RowCounter(lambda _done, _total: None, len(rows_ND))
    return _radii(rows_ND.cpu(), frame_of(rows_ND.cpu()), k, device, counter)


def _radii(
    rows_ND: torch.Tensor,
    frame: Frame,
    k: int,
    device: torch.device,
    counter: _RowCounter,
    halves: RandomHalves | None = None,
) -> torch.Tensor:
    tiles = Tiles(frame, min(TILE_ROWS, len(rows_ND)), TILE_COLUMNS, device)
    found = []
    for index_N in torch.split(torch.arange(len(rows_ND)), TILE_ROWS):
        distance_NS, place_NS, is_certain_N = _nearest(rows_ND, index_N, tiles, k)
        if not is_certain_N.all():
            uncertain_N = index_N[~is_certain_N]
            exact_tiles = Tiles(frame, len(uncertain_N), TILE_COLUMNS, CPU, torch.float64)
            # Ties left by float64 differ by less than its rounding.
            distance_NS[~is_certain_N], place_NS[~is_certain_N], _ = _nearest(rows_ND, uncertain_N, exact_tiles, k)
        if halves:
            halves.add_neighbours(index_N, place_NS, distance_NS)
        found.append(distance_NS[:, k - 1])
        counter.add(len(index_N))
    return torch.cat(found)


def _nearest(
    rows_ND: torch.Tensor, index_N: torch.Tensor, tiles: Tiles, k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Nearest other rows of the indexed ones, the nearest first: (N, S) float64 squared distances, and row numbers.

    The first k are correct where the last result, (N,) bool, is true; of the rest some may be missing.
    """
    num = min(k + NUM_SPARE, len(rows_ND) - 1)
    tiles.hold(rows_ND[index_N])
    low_NS, place_NS = torch.empty(len(index_N), 0), torch.empty(len(index_N), 0, dtype=torch.int64)
    for start in range(0, len(rows_ND), TILE_COLUMNS):
        tiles.measure(rows_ND[start : start + TILE_COLUMNS])
        low_NM = tiles.low()
        is_own_N = (start <= index_N) & (index_N < start + low_NM.shape[1])
        low_NM[is_own_N.nonzero()[:, 0], index_N[is_own_N] - start] = torch.inf
        near_NS, picked_NS = low_NM.topk(min(num, low_NM.shape[1]), dim=1, largest=False)
        low_NS, place_NS = torch.cat([low_NS, near_NS.cpu()], dim=1), torch.cat([place_NS, start + picked_NS.cpu()], 1)
        low_NS, picked_NS = low_NS.topk(min(num, low_NS.shape[1]), dim=1, largest=False)
        place_NS = place_NS.gather(1, picked_NS)
    pair_P = index_N.repeat_interleave(num)
    distance_NS = exact_distances(rows_ND, rows_ND, pair_P, place_NS.flatten()).view(len(index_N), num)
    distance_NS, order_NS = distance_NS.sort(dim=1, stable=True)
    # Every discarded row is at least as far away as the lower bound of the last candidate.
    discarded_N = low_NS[:, -1].double() / tiles.unit
    is_all = num == len(rows_ND) - 1
    is_certain_N = torch.ones_like(index_N, dtype=torch.bool) if is_all else distance_NS[:, k - 1] <= discarded_N
    return distance_NS, place_NS.gather(1, order_NS), is_certain_N


class _Coverage:
    """Samples inside balls of the reference and the reverse, accumulated over tiles."""

    def __init__(
        self,
        samples: torch.Tensor,
        reference: torch.Tensor,
        balls_N: torch.Tensor,
        balls_M: torch.Tensor,
        frame: Frame,
        halves: RandomHalves,
    ) -> None:
        self._samples, self._reference, self._balls_N, self._balls_M = samples, reference, balls_N, balls_M
        self._frame, self._halves = frame, halves
        self.is_in_N = torch.zeros(len(samples), dtype=torch.bool)
        self.is_in_M = torch.zeros(len(reference), dtype=torch.bool)

    def passes(self, device: torch.device) -> Iterator[int]:
        """Compare all samples with the whole reference; yields the number of samples done in each pass."""
        tiles = Tiles(self._frame, min(TILE_ROWS, len(self._samples)), TILE_COLUMNS, device)
        for start in range(0, len(self._samples), TILE_ROWS):
            rows = slice(start, min(start + TILE_ROWS, len(self._samples)))
            tiles.hold(self._samples[rows])
            for first in range(0, len(self._reference), TILE_COLUMNS):
                columns = slice(first, min(first + TILE_COLUMNS, len(self._reference)))
                tiles.measure(self._reference[columns])
                self._add(tiles, rows, columns)
            yield rows.stop - rows.start

    def _add(self, tiles: Tiles, rows: slice, columns: slice) -> None:
        is_in_N, is_in_M = self.is_in_N[rows], self.is_in_M[columns]
        balls_N, balls_M = self._balls_N[rows], self._balls_M[columns]
        high_NM = tiles.high()
        around_N1, around_M = (
            (balls * tiles.unit).to(dtype=high_NM.dtype, device=high_NM.device) for balls in (balls_N[:, None], balls_M)
        )
        is_in_N |= (high_NM <= around_M * (1 - RADIUS_ROUNDING)).any(dim=1).cpu()
        is_in_M |= (high_NM <= around_N1 * (1 - RADIUS_ROUNDING)).any(dim=0).cpu()
        low_NM, more = tiles.low(), torch.finfo(high_NM.dtype).tiny
        self._halves.add_tile(rows, columns, low_NM, tiles.unit)
        is_open_NM = (low_NM <= around_M * (1 + RADIUS_ROUNDING) + more).cpu()
        is_open_MN = (low_NM <= around_N1 * (1 + RADIUS_ROUNDING) + more).cpu().T
        samples, reference = self._samples[rows], self._reference[columns]
        decide_pairs(is_open_NM, samples, reference, balls_M, is_in_N)
        decide_pairs(is_open_MN, reference, samples, balls_N, is_in_M)


def decide_pairs(
    is_open_NM: torch.Tensor,
    points_ND: torch.Tensor,
    centres_MD: torch.Tensor,
    balls_M: torch.Tensor,
    is_in_N: torch.Tensor,
) -> None:
    """Mark points inside a ball, in place, by exact distances of undecided pairs.

    Args:
        is_open_NM: Undecided pairs.
        points_ND: The points.
        centres_MD: The balls' centres.
        balls_M: (M,) float64, their squared radii.
        is_in_N: (N,) bool; points already inside are skipped.
    """
    row_N = (is_open_NM.any(dim=1) & ~is_in_N).nonzero()[:, 0]
    is_open_NM, num_at_once = is_open_NM[row_N], 1
    while is_open_NM.any():
        # One ball decides a point that is inside: most are, and the others have few undecided pairs.
        is_asked_NM = is_open_NM & (is_open_NM.cumsum(dim=1, dtype=torch.int32) <= num_at_once)
        place_P, centre_P = is_asked_NM.nonzero().unbind(dim=1)
        point_P = row_N[place_P]
        distance_P = exact_distances(points_ND, centres_MD, point_P, centre_P)
        is_in_N[point_P[distance_P <= balls_M[centre_P]]] = True
        is_open_NM &= ~is_asked_NM & ~is_in_N[row_N].unsqueeze(1)
        num_at_once *= 2
