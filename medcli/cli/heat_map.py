"""A map of numbers in a terminal: figures in every cell, and colours behind them where there are colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

CELL = 3
"""Characters of a cell: two figures and a gap."""
MAX_CELLS = 23
"""With the labels at the left that is less than 80 columns."""
SHADES = ("#00224e", "#1d3a6e", "#43506d", "#61656f", "#7d7c78", "#9c9374", "#bdab68", "#dfc551", "#fee838")
"""Cividis in nine steps: lightness rises throughout, and it reads alike for the colour-blind."""
BRIGHT_FROM = 4
"""Shade from which black figures are read better than white ones."""


def heat_map(rows: Sequence[Sequence[float]], labels: Sequence[str], ends: tuple[str, str]) -> Text:
    """Lay out numbers as cells.

    Args:
        rows: Whole percents, 0 to 99 or a little above; all rows are equally long. Long ones are averaged down.
        labels: What each row is.
        ends: What the first and the last column are.
    """
    from rich.style import Style
    from rich.text import Text

    pooled = [_pooled(row) for row in rows]
    top = max((max(row) for row in pooled), default=0.0) or 1.0
    margin = max(map(len, labels))
    width = CELL * len(pooled[0])
    text = Text(f"{'':{margin}} {ends[0]} {ends[1]:>{max(0, width - len(ends[0]) - 1)}}\n")
    for label, row in zip(labels, pooled, strict=True):
        text.append(f"{label:>{margin}} ")
        for value in row:
            shade = min(len(SHADES) - 1, int(len(SHADES) * value / top))
            colours = Style(color="black" if shade >= BRIGHT_FROM else "white", bgcolor=SHADES[shade])
            text.append(f"{min(99, round(value)):{CELL}d}", colours)
        text.append("\n")
    text.right_crop(1)
    return text


def _pooled(row: Sequence[float]) -> list[float]:
    """At most `MAX_CELLS` numbers: means of neighbours."""
    num_cells = min(len(row), MAX_CELLS)
    borders = [cell * len(row) // num_cells for cell in range(num_cells + 1)]
    parts = [row[start:end] for start, end in zip(borders, borders[1:], strict=False)]
    return [sum(part) / len(part) for part in parts]
