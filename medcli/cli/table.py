"""Tables that fit the terminal: numbers are never wrapped or cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from medcli.runtime.text import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.measure import Measurement
    from rich.table import Table

LONG_WORD = 24
"""Length of a word, such as a path, from which it may be wrapped."""
FRAME, GAP = 3, 2
"""Characters that Rich puts around a cell of a table and between the columns of a grid."""


@dataclass(frozen=True, slots=True)
class FittedTable:
    """Rows under headings. A Rich renderable that adapts to the width: see `variants`."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    """Columns aligned to the right."""
    optional: tuple[str, ...] = ()
    """Columns to drop in a narrow terminal, the first ones first."""
    caption: str = ""

    def variants(self) -> Iterator[FittedTable]:
        """Yield the table, the same with headings on several lines, and then without one optional column after another.

        Whatever is wider than the terminal after that is shown as one block per row.
        """
        yield self
        table = replace(self, columns=tuple(column.replace(" ", "\n") for column in self.columns))
        yield table
        for name in self.optional:
            table = table.without(name.replace(" ", "\n"))
            yield table

    def without(self, column: str) -> FittedTable:
        """Return the table without a column."""
        kept = [place for place, name in enumerate(self.columns) if name != column]
        return replace(
            self,
            columns=tuple(self.columns[place] for place in kept),
            rows=tuple(tuple(row[place] for place in kept) for row in self.rows),
            numeric=tuple(self.numeric[place] for place in kept),
        )

    def widths(self, *, wraps: bool) -> list[int]:
        """Return the width of each column in characters.

        Args:
            wraps: Text may be wrapped between words, and words longer than `LONG_WORD` inside.
        """
        from rich.cells import cell_len

        def needed(cell: str, is_numeric: bool) -> int:
            if is_numeric or not wraps:
                return max(map(cell_len, cell.split("\n")))
            return max((min(cell_len(word), LONG_WORD) for word in cell.split()), default=0)

        return [
            max(needed(cell, is_numeric) for cell in column)
            for column, is_numeric in zip(zip(self.columns, *self.rows, strict=True), self.numeric, strict=True)
        ]

    def fits(self, width: int, *, wraps: bool) -> bool:
        """Check whether the table fits into so many characters."""
        columns = self.widths(wraps=wraps)
        return sum(columns) + FRAME * len(columns) + 1 <= width

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.text import Text

        fitting = (
            table._framed(wraps=wraps)
            for table in self.variants()
            for wraps in (False, True)
            if table.fits(options.max_width, wraps=wraps)
        )
        yield next(fitting, None) or self._stacked()
        if self.caption:
            yield Text(self.caption)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.measure import Measurement

        return Measurement(1, options.max_width)

    def _framed(self, *, wraps: bool) -> Table:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD)
        for heading, is_numeric, width in zip(self.columns, self.numeric, self.widths(wraps=wraps), strict=True):
            table.add_column(
                Text(heading),
                justify="right" if is_numeric else "left",
                no_wrap=is_numeric or not wraps,
                overflow="fold",
                min_width=width,
            )
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table

    def _stacked(self) -> Table:
        """Lay out one value a line, a blank line between rows; long values wrap."""
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, GAP))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for place, row in enumerate(self.rows):
            if place:
                grid.add_row("", "")
            for heading, cell in zip(self.columns, row, strict=True):
                grid.add_row(Text(heading, "dim"), Text(cell))
        return grid


def fixed(value: float | None, spec: str) -> str | None:
    """Format a number, such as `.3f`; None stays an empty cell."""
    return None if value is None else format(value, spec)


def table_of(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    caption: str | None = None,
    optional: Sequence[str] = (),
) -> FittedTable:
    """Lay out rows under headings; numbers, as such or as text, go to the right; None shows as `-`.

    Args:
        columns: Headings, with the unit in them.
        rows: One value a column; numbers come already rounded or as text.
        caption: Remarks under the table, one a line.
        optional: Headings of columns to drop in a narrow terminal, the first ones first.

    Raises:
        ValueError: If an optional column is no column.
    """
    if unknown := set(optional) - set(columns):
        raise ValueError(f"no column {sorted(unknown)[0]!r}")
    listed = [tuple(row) for row in rows]
    return FittedTable(
        columns=tuple(columns),
        rows=tuple(tuple("-" if value is None else printable(str(value)) for value in row) for row in listed),
        numeric=tuple(
            all(row[place] is None or _is_number(row[place]) for row in listed) for place in range(len(columns))
        ),
        optional=tuple(optional),
        caption="\n".join(map(printable, (caption or "").splitlines())),
    )


def _is_number(value: object) -> bool:
    words = str(value).replace(",", "").split()
    try:
        float(words[0])
    except (ValueError, IndexError):
        return False
    return len(words) == 1 or len(words) == 2 and words[1] in UNITS


UNITS = ("K", "M", "G", "T")
"""Suffixes of large numbers."""


def count_text(number: int) -> str:
    """Format a large count for people: `679.6 M`."""
    value, suffixes = float(number), iter(UNITS)
    suffix = ""
    while value >= 999.95:
        value, suffix = value / 1000, next(suffixes)
    return f"{value:.1f} {suffix}" if suffix else str(number)


def details_of(values: dict[str, Any]) -> Table:
    """Lay out one value a line beside its name, as `Output.result` does when a command gives no table of its own."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, GAP))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in values.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        is_empty = value is None or shown == ""
        grid.add_row(Text(name.replace("_", " "), "dim"), Text("-" if is_empty else printable(shown)))
    return grid
