"""Mean and covariance of feature rows: float64, mergeable, exact in any order of merging.

Dimension key: N rows, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import torch

from medcli.errors import DataError

PIECE_ROWS = 1024
"""Rows checked at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gaussian:
    """Mean and covariance of a set of features: the Gaussian that FID compares."""

    mean_D: torch.Tensor
    """(D,) float64."""
    covariance_DD: torch.Tensor
    """(D, D) float64, unbiased (divisor n - 1)."""
    num_rows: int | None
    """Rows it was estimated from; None where a statistics file does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Moments:
    """Running sums of a set of rows. Two sets merge into the moments of their union, so shards and processes add up."""

    num_rows: int
    mean_D: torch.Tensor
    """(D,) float64."""
    scatter_DD: torch.Tensor
    """(D, D) float64: sum over rows of (x - mean)(x - mean)^T."""

    @classmethod
    def empty(cls, dim: int) -> Moments:
        """Moments of no rows of width `dim`."""
        zeros_DD = torch.zeros(dim, dim, dtype=torch.float64)
        return cls(num_rows=0, mean_D=torch.zeros(dim, dtype=torch.float64), scatter_DD=zeros_DD)

    @classmethod
    def of(cls, rows_ND: torch.Tensor) -> Moments:
        """Moments of (N, D) rows of any float type.

        Raises:
            DataError: If a row holds a NaN or an infinity.
        """
        if not len(rows_ND):
            return cls.empty(rows_ND.shape[1])
        rows_ND = finite(rows_ND.cpu().double())
        mean_D = rows_ND.mean(dim=0)
        centred_ND = rows_ND - mean_D
        return cls(num_rows=len(rows_ND), mean_D=mean_D, scatter_DD=centred_ND.T @ centred_ND)

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets together (Chan, Golub and LeVeque 1979, pairwise update).

        Raises:
            DataError: If the widths differ.
        """
        check_same_width(len(self.mean_D), len(other.mean_D))
        num_rows = self.num_rows + other.num_rows
        if not other.num_rows or not self.num_rows:
            return self if self.num_rows else other
        step_D = other.mean_D - self.mean_D
        between_DD = torch.outer(step_D, step_D) * (self.num_rows * other.num_rows / num_rows)
        return Moments(
            num_rows=num_rows,
            mean_D=self.mean_D + step_D * (other.num_rows / num_rows),
            scatter_DD=self.scatter_DD + other.scatter_DD + between_DD,
        )

    def gaussian(self) -> Gaussian:
        """Mean and unbiased covariance.

        Raises:
            DataError: If there are fewer than two rows.
        """
        if self.num_rows < 2:
            raise DataError(
                f"a covariance needs at least 2 images, got {self.num_rows}",
                hint="score more images, thousands if you can",
            )
        covariance_DD = self.scatter_DD / (self.num_rows - 1)
        return Gaussian(mean_D=self.mean_D, covariance_DD=covariance_DD, num_rows=self.num_rows)


class RunningMoments:
    """Moments of rows added in pieces, updated in place: holds one covariance and one piece.

    Args:
        dim: Width of the rows.
    """

    def __init__(self, dim: int) -> None:
        empty = Moments.empty(dim)
        self._num_rows, self._mean_D, self._scatter_DD = 0, empty.mean_D, empty.scatter_DD

    def add(self, rows_ND: torch.Tensor) -> None:
        """Add (N, D) rows of any float type.

        Raises:
            DataError: If the width differs, or a row holds a NaN or an infinity.
        """
        check_same_width(len(self._mean_D), rows_ND.shape[1])
        if not len(rows_ND):
            return
        centred_ND = finite(rows_ND).to(device="cpu", dtype=torch.float64, copy=True)
        mean_D = centred_ND.mean(dim=0)
        centred_ND -= mean_D
        num_rows = self._num_rows + len(rows_ND)
        step_D = mean_D - self._mean_D
        self._scatter_DD.addmm_(centred_ND.T, centred_ND)
        self._scatter_DD.addr_(step_D, step_D, alpha=self._num_rows * len(rows_ND) / num_rows)
        self._mean_D += step_D * (len(rows_ND) / num_rows)
        self._num_rows = num_rows

    def moments(self) -> Moments:
        """Return the moments of all rows added so far; call it once, at the end."""
        return Moments(num_rows=self._num_rows, mean_D=self._mean_D, scatter_DD=self._scatter_DD)


class BlockMoments(Sequence[Moments]):
    """Moments of blocks of rows, each computed on access: with 2048 features one takes 33 MB.

    Args:
        read: Yields the rows of these numbers, which rise, as (N, D) pieces of any length.
        blocks: Row numbers of each block, rising.
        dim: Width of the rows.
    """

    def __init__(
        self, read: Callable[[torch.Tensor], Iterator[torch.Tensor]], *, blocks: Sequence[torch.Tensor], dim: int
    ) -> None:
        self._read, self._blocks, self._dim = read, blocks, dim

    def __len__(self) -> int:
        return len(self._blocks)

    @overload
    def __getitem__(self, place: int) -> Moments: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Moments]: ...

    def __getitem__(self, place: int | slice) -> Moments | Sequence[Moments]:
        if isinstance(place, slice):
            return [self[block] for block in range(*place.indices(len(self)))]
        running = RunningMoments(self._dim)
        for rows_ND in self._read(self._blocks[place]):
            running.add(rows_ND)
        return running.moments()


def finite(rows_ND: torch.Tensor) -> torch.Tensor:
    """Return the rows unchanged.

    Raises:
        DataError: If one holds a NaN or an infinity; the message names the first such row.
    """
    # In pieces: the check copies its input, and 50,000 rows are 400 MB.
    is_bad_N = torch.cat([~torch.isfinite(piece).all(dim=1) for piece in torch.split(rows_ND, PIECE_ROWS)])
    if is_bad_N.any():
        raise DataError(
            f"row {int(is_bad_N.nonzero()[0])} of the features is not finite ({int(is_bad_N.sum())} such rows)",
            hint="the extractor weights are damaged, or the features come from a broken run",
        )
    return rows_ND


def check_same_width(num_sample_features: int, num_reference_features: int) -> None:
    """Check that two sets of features can be compared.

    Raises:
        DataError: If their widths differ.
    """
    if num_sample_features != num_reference_features:
        raise DataError(
            f"samples have {num_sample_features} features an image, the reference has {num_reference_features}",
            hint="score both with the extractor the reference was made with",
        )
