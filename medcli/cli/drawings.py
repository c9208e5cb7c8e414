"""Drawings made of characters: a map of numbers, and a histogram in one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medcli.cli.text import sign

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.text import Text

CELL = 3
"""Characters of a cell: two figures and a gap."""
SHADES = (17, 60, 102, 144, 186, 229)
"""Numbers of the 256-colour palette, from blue over grey to yellow: lightness rises throughout, as in cividis, and it
reads alike for the colour-blind."""
BLACK, WHITE = 16, 231
BRIGHT_FROM = 2
"""Shade from which black figures are read better than white ones."""
COLOURED = ("256", "truecolor")
"""Names of Rich's colour systems that have these colours; with fewer only the figures are shown."""
BARS, PLAIN_BARS = " ▁▂▃▄▅▆▇█", " .:-=+*#"
HISTOGRAM_BINS = 32


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Numbers as cells, as many as the terminal is wide: longer rows are averaged down. A Rich renderable."""

    rows: Sequence[Sequence[float]]
    """Whole percents, 0 to 99 or a little above; all rows are equally long."""
    labels: Sequence[str]
    """Label of each row."""
    ends: tuple[str, str]
    """Labels of the first and the last column."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        from rich.style import Style
        from rich.text import Text

        margin = max(map(len, self.labels))
        pooled = [_pooled(row, max(1, (options.max_width - margin - 1) // CELL)) for row in self.rows]
        top = max((max(row) for row in pooled), default=0.0) or 1.0
        left, right = self.ends
        yield Text(f"{'':{margin}} {left} {right:>{max(0, CELL * len(pooled[0]) - len(left) - 1)}}")
        for label, row in zip(self.labels, pooled, strict=True):
            text = Text(f"{label:>{margin}} ", no_wrap=True)
            for value in row:
                shade = min(len(SHADES) - 1, int(len(SHADES) * value / top))
                ink = BLACK if shade >= BRIGHT_FROM else WHITE
                style = Style(color=f"color({ink})", bgcolor=f"color({SHADES[shade]})")
                has_colours = console.color_system in COLOURED
                text.append(f"{min(99, round(value)):{CELL}d}", style if has_colours else None)
            yield text


def histogram(steps: Sequence[int], num_steps: int) -> str:
    """Draw a histogram in one line: higher bars, or darker characters, for more images.

    Args:
        steps: Solver steps of the moves, in 0..num_steps - 1.
        num_steps: Solver steps of an image.
    """
    bars = sign(BARS, PLAIN_BARS)
    width = min(num_steps, HISTOGRAM_BINS)
    bins = [0] * width
    for step in steps:
        bins[step * width // num_steps] += 1
    top = max(bins)
    # Rounded up, so that a single image shows.
    return f"|{''.join(bars[-(-count * (len(bars) - 1) // top)] for count in bins)}|"


def _pooled(row: Sequence[float], most: int) -> list[float]:
    """Average neighbours down to at most so many numbers."""
    num_cells = min(len(row), most)
    borders = [cell * len(row) // num_cells for cell in range(num_cells + 1)]
    parts = [row[start:end] for start, end in zip(borders, borders[1:], strict=False)]
    return [sum(part) / len(part) for part in parts]
