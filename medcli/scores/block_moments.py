"""Moments of contiguous blocks of rows, for error bars.

Dimension key: N rows, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import overload

import torch

from medcli.scores.moments import Moments, RunningMoments


class BlockMoments(Sequence[Moments]):
    """One `Moments` a block, computed each time it is asked for: that of 2048 features takes 33 MB.

    Args:
        read: Yields the rows from one to before another, in order, as (N, D) pieces of any length.
        num_rows: Rows in all.
        dim: Their width.
        num_blocks: Blocks; their sizes differ by at most one. With fewer rows than blocks, one row each.
    """

    def __init__(
        self, read: Callable[[int, int], Iterator[torch.Tensor]], *, num_rows: int, dim: int, num_blocks: int
    ) -> None:
        self._read, self._num_rows, self._dim = read, num_rows, dim
        self._num_blocks = min(num_blocks, num_rows)

    def __len__(self) -> int:
        return self._num_blocks

    @overload
    def __getitem__(self, place: int) -> Moments: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Moments]: ...

    def __getitem__(self, place: int | slice) -> Moments | Sequence[Moments]:
        if isinstance(place, slice):
            return [self[block] for block in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        block = place % len(self)
        start, stop = (self._num_rows * edge // len(self) for edge in (block, block + 1))
        running = RunningMoments(self._dim)
        for rows_ND in self._read(start, stop):
            running.add(rows_ND)
        return running.moments()
