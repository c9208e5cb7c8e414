"""Squared distances between rows of features: fast ones with a bound of their error, and exact ones of chosen pairs.

Fast distances are |u|^2 - 2uv + |v|^2 with float32 products of rows moved to a common centre, a tile at a time, on any
device. Moving both sets leaves distances as they are and takes the rounding away that a large common offset brings
(metrics-facts 1.5). The error is bounded rigorously, so what lies within the bound, and only that, needs the exact way.
Dimension key: N and M rows, D features, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

PIECE_ROWS = 256
"""Rows turned into float64 at once."""
PAIR_CHUNK = 256
"""Pairs whose differences are held at once."""
SLACK = 16
"""Roundings of a fast distance beside the D of its product, generously counted."""
TINY = 2.0**-100
"""What float32 products may lose to underflow, where everything is at most 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """Where rows are moved to, and how they are scaled, before they are rounded."""

    centre_D: torch.Tensor
    """(D,) float64."""
    scale: float
    """A power of two, which rounds nothing; no entry is above 1 after it."""

    def place(
        self, rows_ND: torch.Tensor, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows in the frame, (N, D), and their squared norms, (N,): both of the type, on the device."""
        placed, norms = [], []
        for piece in torch.split(rows_ND, PIECE_ROWS):
            moved_ND = piece.to(device="cpu", dtype=torch.float64, copy=True).sub_(self.centre_D).mul_(self.scale)
            placed.append(moved_ND.to(dtype=dtype, device=device))
            norms.append(moved_ND.square_().sum(dim=1).to(dtype=dtype, device=device))
        return (placed[0], norms[0]) if len(placed) == 1 else (torch.cat(placed), torch.cat(norms))


def frame_of(*sets: torch.Tensor) -> Frame:
    """The frame centred at the mean of the first set that holds all of them."""
    first = sets[0]
    centre_D = torch.zeros(first.shape[1], dtype=torch.float64)
    for piece in torch.split(first, PIECE_ROWS):
        centre_D += piece.double().sum(dim=0) / len(first)
    reach = max(
        float((piece.double() - centre_D).abs().max()) for rows_ND in sets for piece in torch.split(rows_ND, PIECE_ROWS)
    )
    _, exponent = torch.frexp(torch.tensor(reach, dtype=torch.float64))
    return Frame(centre_D=centre_D, scale=2.0 ** -int(exponent))


@dataclass(frozen=True, kw_only=True, slots=True)
class FastDistances:
    """Squared distances of a tile in the frame's units, and how far they may be off."""

    found_NM: torch.Tensor
    margin_NM: torch.Tensor

    def low(self) -> torch.Tensor:
        """(N, M) what the distances are at least."""
        return torch.sub(self.found_NM, self.margin_NM).clamp_(min=0)

    def high(self) -> torch.Tensor:
        """(N, M) what they are at most."""
        return torch.add(self.found_NM, self.margin_NM)

    def turned(self) -> FastDistances:
        """The same between the other set and this one."""
        return FastDistances(found_NM=self.found_NM.T, margin_NM=self.margin_NM.T)


def fast_distances(left: tuple[torch.Tensor, torch.Tensor], right: tuple[torch.Tensor, torch.Tensor]) -> FastDistances:
    """Squared distances between rows placed by one frame.

    A product of D terms in precision u is off by at most D u |x| |y| / (1 - D u), and 2 |x| |y| <= |x|^2 + |y|^2
    (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1).
    """
    (left_ND, left_norm_N), (right_MD, right_norm_M) = left, right
    unit = torch.finfo(left_ND.dtype).eps / 2
    margin_NM = left_norm_N.unsqueeze(1) + right_norm_M
    found_NM = torch.addmm(margin_NM, left_ND, right_MD.T, alpha=-2)
    return FastDistances(found_NM=found_NM, margin_NM=margin_NM.mul_((left_ND.shape[1] + SLACK) * unit).add_(TINY))


def exact_distances(
    left_ND: torch.Tensor, right_MD: torch.Tensor, left_P: torch.Tensor, right_P: torch.Tensor
) -> torch.Tensor:
    """(P,) float64 squared distances of pairs, by differences: equal pairs give equal numbers, equal rows give 0."""
    chunks = zip(torch.split(left_P, PAIR_CHUNK), torch.split(right_P, PAIR_CHUNK), strict=True)
    distances = [left_ND[i].double().sub_(right_MD[j].double()).square_().sum(dim=1) for i, j in chunks]
    return torch.cat(distances) if distances else torch.empty(0, dtype=torch.float64)


@contextmanager
def full_float32() -> Iterator[None]:
    """Keep float32 products what they say: neither TF32 nor bfloat16 inside."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
