"""The fixed 2-D sine/cosine position table."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def position_table(hidden_size: int, side: int) -> npt.NDArray[np.float32]:
    """Position features of a square token grid.

    Args:
        hidden_size: Features per token, a multiple of 4.
        side: Tokens along one side.

    Returns:
        (side * side, hidden_size) float32, tokens row by row. The first half encodes the column, the second the row;
        each half is sines, then cosines, of position x 10000^(-j / (hidden_size / 4)).

    Source: reference-facts 1.6; computed in float64 as upstream does.
    """
    omega_J = 10000.0 ** (-np.arange(hidden_size // 4, dtype=np.float64) / (hidden_size / 4))
    angle_PJ = np.arange(side, dtype=np.float64)[:, None] * omega_J
    axis_PE = np.concatenate([np.sin(angle_PJ), np.cos(angle_PJ)], axis=1)
    column_NE = np.tile(axis_PE, (side, 1))
    row_NE = np.repeat(axis_PE, side, axis=0)
    return np.concatenate([column_NE, row_NE], axis=1).astype(np.float32)


def offset_index(side: int) -> npt.NDArray[np.int64]:
    """Row of a relative position table for each pair of tokens of a square grid: (N, N).

    Source: edt-facts 1.2. `RelativeBias` does without; official files of some families hold it.
    """
    row_N, column_N = np.divmod(np.arange(side**2), side)
    rows_NN = row_N[:, None] - row_N + side - 1
    columns_NN = column_N[:, None] - column_N + side - 1
    return rows_NN * (2 * side - 1) + columns_NN
