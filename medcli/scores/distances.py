"""Squared distances between rows of features: fast ones with an error bound, and exact ones of chosen pairs.

Fast distances are |u|^2 - 2uv + |v|^2 with float32 products of rows moved to a common centre, a tile at a time, on any
device. Centring leaves distances unchanged and removes the rounding errors of a large common offset (metrics-facts
1.5). The error is bounded rigorously, so only comparisons within the bound need exact distances.
Dimension key: N and M rows, D features, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

PIECE_ROWS = 256
"""Rows converted to float64 at once."""
PAIR_CHUNK = 128
"""Pairs whose differences are in memory at once."""
SLACK = 16
"""Upper bound of the roundings of a fast distance beside the D of its product."""
TINY = 2.0**-100
"""Bound of what float32 products lose to underflow, with entries of at most 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """Centre and scale applied to rows before they are rounded to float32."""

    centre_D: torch.Tensor
    """(D,) float64."""
    scale: float
    """Power of two, so scaling is exact; entries are at most 1 afterwards."""


def frame_of(*sets: torch.Tensor) -> Frame:
    """Return the frame centred at the mean of the first set that contains all sets."""
    first = sets[0]
    centre_D = torch.zeros(first.shape[1], dtype=torch.float64)
    for piece in torch.split(first, PIECE_ROWS):
        centre_D += piece.double().sum(dim=0) / len(first)
    reach = max(
        float((piece.double() - centre_D).abs().max()) for rows_ND in sets for piece in torch.split(rows_ND, PIECE_ROWS)
    )
    _, exponent = torch.frexp(torch.tensor(reach, dtype=torch.float64))
    return Frame(centre_D=centre_D, scale=2.0 ** -int(exponent))


class Tiles:
    """Fast distances in a frame's units, a tile at a time, in reused memory.

    Allocating large tensors again and again grows the heap to many times what is in use, so returned tensors are
    overwritten by the next call of the same method.

    Args:
        frame: The frame.
        num_rows: Maximum rows of a tile.
        num_columns: Maximum columns of a tile.
        device: Where tiles are computed.
        dtype: float32 or float64.
    """

    def __init__(
        self, frame: Frame, num_rows: int, num_columns: int, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        dim = len(frame.centre_D)
        self._frame = frame
        self._rows, self._columns = (
            (torch.empty(num, dim, dtype=dtype, device=device), torch.empty(num, dtype=dtype, device=device))
            for num in (num_rows, num_columns)
        )
        self._moved = torch.empty(PIECE_ROWS, dim, dtype=torch.float64)
        self._found, self._norms, self._bound = (
            torch.empty(num_rows * num_columns, dtype=dtype, device=device) for _ in range(3)
        )
        self._num_held = 0
        self._kept: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}
        # A product of D terms in precision u is off by at most D u |x| |y| / (1 - D u), and 2 |x| |y| <= |x|^2 + |y|^2
        # (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1).
        self._share = (dim + SLACK) * torch.finfo(dtype).eps / 2

    @property
    def unit(self) -> float:
        """Factor from original squared distances to those in the frame."""
        return self._frame.scale**2

    def hold(self, rows_ND: torch.Tensor) -> None:
        """Set the rows of the next tiles."""
        self._place(rows_ND, *self._rows)
        self._num_held = len(rows_ND)

    def measure(self, columns_MD: torch.Tensor) -> None:
        """Compute the squared distances of the current rows to these."""
        rows_ND, norm_N = (kept[: self._num_held] for kept in self._rows)
        placed_MD, norm_M = self._placed_columns(columns_MD)
        self._shape = (len(rows_ND), len(placed_MD))
        norms_NM, found_NM = self._tile(self._norms), self._tile(self._found)
        torch.add(norm_N.unsqueeze(1), norm_M, out=norms_NM)
        torch.addmm(norms_NM, rows_ND, placed_MD.T, alpha=-2, out=found_NM)
        norms_NM.mul_(self._share).add_(TINY)

    def low(self) -> torch.Tensor:
        """(N, M) lower bounds of the distances; overwritten by `high`."""
        return torch.sub(self._tile(self._found), self._tile(self._norms), out=self._tile(self._bound)).clamp_(min=0)

    def high(self) -> torch.Tensor:
        """(N, M) upper bounds of the distances; overwritten by `low`."""
        return torch.add(self._tile(self._found), self._tile(self._norms), out=self._tile(self._bound))

    def _placed_columns(self, columns_MD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return columns in frame coordinates, and their squared norms.

        On a GPU they stay there for the next rows: moving them takes a hundred times as long as a tile. The caller
        keeps the tensor they are part of.
        """
        if self._found.device.type == "cpu":
            self._place(columns_MD, *self._columns)
            placed_MD, norm_M = (kept[: len(columns_MD)] for kept in self._columns)
            return placed_MD, norm_M
        key = (columns_MD.data_ptr(), len(columns_MD))
        if key not in self._kept:
            self._kept[key] = self._columns[0].new_empty(columns_MD.shape), self._columns[1].new_empty(len(columns_MD))
            self._place(columns_MD, *self._kept[key])
        return self._kept[key]

    def _tile(self, flat: torch.Tensor) -> torch.Tensor:
        num_rows, num_columns = self._shape
        return flat[: num_rows * num_columns].view(num_rows, num_columns)

    def _place(self, rows_ND: torch.Tensor, placed_ND: torch.Tensor, norm_N: torch.Tensor) -> None:
        """Write rows in frame coordinates, and their squared norms."""
        for start in range(0, len(rows_ND), PIECE_ROWS):
            piece = rows_ND[start : start + PIECE_ROWS]
            moved_ND, stop = self._moved[: len(piece)], start + len(piece)
            moved_ND.copy_(piece).sub_(self._frame.centre_D).mul_(self._frame.scale)
            placed_ND[start:stop] = moved_ND
            norm_N[start:stop] = moved_ND.square_().sum(dim=1)


def exact_distances(
    left_ND: torch.Tensor, right_MD: torch.Tensor, left_P: torch.Tensor, right_P: torch.Tensor
) -> torch.Tensor:
    """(P,) float64 squared distances of pairs, by differences: equal pairs give equal numbers, equal rows give 0."""
    distance_P = torch.empty(len(left_P), dtype=torch.float64)
    for start in range(0, len(left_P), PAIR_CHUNK):
        chunk = slice(start, start + PAIR_CHUNK)
        step_PD = left_ND[left_P[chunk]].double().sub_(right_MD[right_P[chunk]])
        distance_P[chunk] = step_PD.square_().sum(dim=1)
    return distance_P
