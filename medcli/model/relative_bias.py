"""A learned bias for the offset between two tokens. Source: edt-facts 1.2 and 5."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medcli.model.weight_cache import Kept

# Dimension key: H heads, N tokens, S tokens along one side, W = 2 S - 1 offsets along one side.

KEPT_BYTES = 2**25
"""Most that one layer keeps of its composed bias: it grows with N^2, and a large grid's would outgrow the weights."""


class RelativeBias(nn.Module):
    """Position bias of one attention layer.

    Args:
        shape: Rows and heads of its table. MDTv2's has three rows more than there are offsets; they are not used.
        tokens_side: Tokens along one side of the grid.
    """

    def __init__(self, shape: tuple[int, ...], tokens_side: int) -> None:
        super().__init__()
        self.tokens_side = tokens_side
        self.relative_position_bias_table = nn.Parameter(torch.empty(shape))
        self._composed = Kept[Tensor]()

    def forward(self) -> Tensor:
        """(H, N, N): entry i, j is the table's row for the offset of query i from key j, rows of the grid first.

        Kept between calls while no gradient is wanted, if it is no more than KEPT_BYTES.
        """
        table = self.relative_position_bias_table
        num_bytes = table.shape[1] * self.tokens_side**4 * table.element_size()
        return self._composed.of(self._compose, table) if num_bytes <= KEPT_BYTES else self._compose(table)

    def _compose(self, table: Tensor) -> Tensor:
        """Lay the table out; keys run backwards through windows of it, so no table of indices is needed."""
        side, offsets = self.tokens_side, 2 * self.tokens_side - 1
        table_WWH = table[: offsets**2].unflatten(0, (offsets, offsets))
        # Axes: query row and column, head, then key row and column from the last to the first.
        windows_SSHSS = table_WWH.unfold(0, side, 1).unfold(1, side, 1)
        return windows_SSHSS.flip(-2, -1).permute(2, 0, 1, 3, 4).flatten(3).flatten(1, 2)
