"""Improved precision and recall: which points lie inside the other set's nearest-neighbour balls.

Source: Kynkaanniemi et al. 2019 (arXiv 1904.06991), k = 3, squared distances, boundary included (metrics-facts 1.5).
ADM works in float16; this works in float64 and decides near ties by exact differences, so counts are exact.
Dimension key: N and M rows, D features, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medcli.errors import DataError
from medcli.metrics.moments import check_same_width, finite

NUM_NEIGHBOURS = 3
TILE_ROWS = 1024
PAIR_CHUNK = 4096
"""Pairs whose differences are held at once when ties are decided."""
NUM_SPARE = 8
"""Candidates looked at beyond the k-th neighbour: rounding of the fast distances may swap near neighbours."""
TIE_MARGIN = 1e-10
"""Relative to the squared norms: float64 products err by about 1e-14, so nothing outside the margin can be wrong."""


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


def precision_recall(
    samples_ND: torch.Tensor, reference_MD: torch.Tensor, *, k: int = NUM_NEIGHBOURS
) -> PrecisionRecall:
    """Count covered points over all rows of both sets; memory is one tile whatever the sizes.

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
    # Distances do not change when both sets move, rounding of |u|^2 - 2uv + |v|^2 does: bring the sets to the origin.
    centre_D = reference.double().mean(dim=0)
    return PrecisionRecall(
        num_samples_inside=int(_is_covered(samples, reference, radii(reference, k=k), centre_D).sum()),
        num_samples=len(samples),
        num_references_inside=int(_is_covered(reference, samples, radii(samples, k=k), centre_D).sum()),
        num_references=len(reference),
    )


def radii(rows_ND: torch.Tensor, *, k: int = NUM_NEIGHBOURS) -> torch.Tensor:
    """(N,) float64 squared distance of each row to its k-th nearest other row."""
    centre_D = rows_ND.double().mean(dim=0)
    found = []
    for tile_ND, index_N in zip(
        torch.split(rows_ND, TILE_ROWS), torch.split(torch.arange(len(rows_ND)), TILE_ROWS), strict=True
    ):
        candidates_NP = _nearest(tile_ND, rows_ND, min(k + 1 + NUM_SPARE, len(rows_ND)), centre_D)
        row_P = index_N.repeat_interleave(candidates_NP.shape[1])
        distances_P = _exact_distances(rows_ND, rows_ND, row_P, candidates_NP.flatten())
        # The row itself is among its candidates at distance 0, so the k-th other one has index k once sorted.
        found.append(distances_P.view(candidates_NP.shape).sort(dim=1).values[:, k])
    return torch.cat(found)


def _nearest(tile_ND: torch.Tensor, rows_MD: torch.Tensor, num: int, centre_D: torch.Tensor) -> torch.Tensor:
    """(N, num) indices of the rows nearest to each row of the tile, kept running over tiles."""
    best_NP = torch.empty(len(tile_ND), 0, dtype=torch.float64)
    index_NP = torch.empty(len(tile_ND), 0, dtype=torch.int64)
    for start in range(0, len(rows_MD), TILE_ROWS):
        distance_NM = _fast_distances(tile_ND, rows_MD[start : start + TILE_ROWS], centre_D)
        index_NM = torch.arange(start, start + distance_NM.shape[1]).expand(distance_NM.shape)
        best_NP, index_NP = torch.cat([best_NP, distance_NM], dim=1), torch.cat([index_NP, index_NM], dim=1)
        best_NP, picked_NP = best_NP.topk(min(num, best_NP.shape[1]), dim=1, largest=False)
        index_NP = index_NP.gather(1, picked_NP)
    return index_NP


def _is_covered(
    points: torch.Tensor, centres: torch.Tensor, radii_M: torch.Tensor, centre_D: torch.Tensor
) -> torch.Tensor:
    """(N,) bool: whether each point lies in the ball around at least one of the centres."""
    is_inside_N = torch.zeros(len(points), dtype=torch.bool)
    for start in range(0, len(points), TILE_ROWS):
        rows = points[start : start + TILE_ROWS]
        is_inside = is_inside_N[start : start + TILE_ROWS]
        for first in range(0, len(centres), TILE_ROWS):
            balls, radius_M = centres[first : first + TILE_ROWS], radii_M[first : first + TILE_ROWS]
            gap_NM = _fast_distances(rows, balls, centre_D) - radius_M
            margin_NM = TIE_MARGIN * (_norms(rows, centre_D).unsqueeze(1) + _norms(balls, centre_D))
            is_inside |= (gap_NM < -margin_NM).any(dim=1)
            ties_P2 = ((gap_NM.abs() <= margin_NM) & ~is_inside.unsqueeze(1)).nonzero()
            row_P, ball_P = ties_P2.unbind(dim=1)
            is_in_P = _exact_distances(rows, balls, row_P, ball_P) <= radius_M[ball_P]
            is_inside[row_P[is_in_P]] = True
    return is_inside_N


def _norms(rows_ND: torch.Tensor, centre_D: torch.Tensor) -> torch.Tensor:
    return (rows_ND.double() - centre_D).square().sum(dim=1)


def _fast_distances(left_ND: torch.Tensor, right_MD: torch.Tensor, centre_D: torch.Tensor) -> torch.Tensor:
    """(N, M) float64 squared distances through one matrix product: right to about 1e-14 of the squared norms."""
    products_NM = (left_ND.double() - centre_D) @ (right_MD.double() - centre_D).T
    return _norms(left_ND, centre_D).unsqueeze(1) - 2 * products_NM + _norms(right_MD, centre_D)


def _exact_distances(
    left_ND: torch.Tensor, right_MD: torch.Tensor, left_P: torch.Tensor, right_P: torch.Tensor
) -> torch.Tensor:
    """(P,) float64 squared distances of pairs, by differences: equal pairs give equal numbers, equal rows give 0."""
    chunks = zip(torch.split(left_P, PAIR_CHUNK), torch.split(right_P, PAIR_CHUNK), strict=True)
    distances = [(left_ND[i].double() - right_MD[j].double()).square().sum(dim=1) for i, j in chunks]
    return torch.cat(distances) if distances else torch.empty(0, dtype=torch.float64)
