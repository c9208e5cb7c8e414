"""Tables that follow from a square token grid: positions, rotary angles, offsets. Torch-free."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def position_table(hidden_size: int, side: int, scale: float = 1.0) -> npt.NDArray[np.float32]:
    """Compute the fixed 2-D sine/cosine position table of a square token grid.

    Args:
        hidden_size: Features per token, a multiple of 4.
        side: Tokens along one side.
        scale: `ModelConfig.position_scale`. Token i has the coordinate (i + 0.5) / scale - 0.5, so the grid lies over
            one of side / scale; 1: coordinates 0 .. side - 1.

    Returns:
        (side * side, hidden_size) float32, tokens row by row. The first half encodes the column, the second the row;
        each half is sines, then cosines, of position x 10000^(-j / (hidden_size / 4)).

    Source: reference-facts 1.6; computed in float64 as upstream does.
    """
    omega_J = 10000.0 ** (-np.arange(hidden_size // 4, dtype=np.float64) / (hidden_size / 4))
    coordinate_P = (np.arange(side, dtype=np.float64) + 0.5) / scale - 0.5
    angle_PJ = coordinate_P[:, None] * omega_J
    axis_PE = np.concatenate([np.sin(angle_PJ), np.cos(angle_PJ)], axis=1)
    column_NE = np.tile(axis_PE, (side, 1))
    row_NE = np.repeat(axis_PE, side, axis=0)
    return np.concatenate([column_NE, row_NE], axis=1).astype(np.float32)


def pool_centres(side: int, cells: int) -> npt.NDArray[np.float64]:
    """Return the mean position of each cell when `side` tokens are pooled to `cells`, as adaptive pooling does."""
    first = np.arange(cells) * side // cells
    last = -(-(np.arange(cells) + 1) * side // cells) - 1
    return (first + last) / 2


def rotation_tables(
    side: int, head_width: int, points_side: int | None = None, scale: float = 1.0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Compute cosines and sines of the rotary angles of a square grid.

    Args:
        side: Tokens along one side; positions are 0..side - 1.
        head_width: Channels K of a head, a multiple of 4: the first half turns with the row, the second with the
            column, channels 2k and 2k + 1 of a half by position x 10000^(-4k / K).
        points_side: Pools along one side, whose centres are the positions; None: the tokens themselves.
        scale: As in `position_table`.

    Returns:
        Two (points^2, K) float32 arrays, points row by row.
    """
    axis_P = np.arange(side, dtype=np.float64) if points_side is None else pool_centres(side, points_side)
    axis_P = (axis_P + 0.5) / scale - 0.5
    frequency_E = np.repeat(10000.0 ** (-4 * np.arange(head_width // 4) / head_width), 2)
    angle_PE = axis_P[:, None] * frequency_E
    count = len(axis_P)
    angle_NK = np.concatenate([np.repeat(angle_PE, count, axis=0), np.tile(angle_PE, (count, 1))], axis=1)
    return np.cos(angle_NK).astype(np.float32), np.sin(angle_NK).astype(np.float32)


def offset_index(side: int) -> npt.NDArray[np.int64]:
    """Return the row of a relative position table for each pair of tokens of a square grid, (N, N).

    Source: edt-facts 1.2. Official files of some families contain it; `RelativeBias` does not need it.
    """
    row_N, column_N = np.divmod(np.arange(side**2), side)
    rows_NN = row_N[:, None] - row_N + side - 1
    columns_NN = column_N[:, None] - column_N + side - 1
    return rows_NN * (2 * side - 1) + columns_NN
