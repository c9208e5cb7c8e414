"""Tables and text that fit the terminal: no number and no word is ever cut."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from medcli.cli.text import Prose, cells, pieces, unwrapped, wrapped
from medcli.runtime.text import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.measure import Measurement
    from rich.text import Text

GAP = 2
"""Characters between columns."""
MARGIN = 1
"""Characters at either side of a table."""
ONE_NUMBER = r"[-+]?[\d,]*\.?\d+(e[-+]?\d+)?( [KMGTP])?( ?(±|\+-) ?[\d.,]+%?)?"
NUMBER = re.compile(rf"(nan|-?inf|{ONE_NUMBER}( to {ONE_NUMBER})?)( [*~])?")
"""Cells that are aligned to the right."""


@dataclass(frozen=True, slots=True)
class FittedTable:
    """Rows under headings. A Rich renderable that adapts to the width: see `layouts`."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    whole: tuple[bool, ...]
    """Columns whose cells are never wrapped."""
    numeric: tuple[bool, ...]
    """Columns aligned to the right."""
    optional: tuple[str, ...] = ()
    """Columns to drop in a narrow terminal, the first ones first."""
    caption: str = ""

    def layouts(self, width: int) -> Iterator[tuple[FittedTable, list[int]]]:
        """Yield the tables that fit, with the widths of their columns, preferred first.

        Headings are wrapped first, then cells, then optional columns are dropped one after another. Whatever is wider
        than the terminal after that is shown as one block per row.
        """
        for dropped in range(len(self.optional) + 1):
            table = self.without(self.optional[:dropped])
            full = table.widths(lambda text: text, lambda text: text)
            for least in (full, table.widths(_longest_word, lambda text: text), table.widths(_longest_word, _longest)):
                spare = width - 2 * MARGIN - GAP * (len(least) - 1) - sum(least)
                if spare >= 0:
                    yield table, _widened(least, full, spare)

    def without(self, dropped: Sequence[str]) -> FittedTable:
        """Return the table without some columns."""
        kept = [place for place, name in enumerate(self.columns) if name not in dropped]
        return replace(
            self,
            columns=tuple(self.columns[place] for place in kept),
            rows=tuple(tuple(row[place] for place in kept) for row in self.rows),
            whole=tuple(self.whole[place] for place in kept),
            numeric=tuple(self.numeric[place] for place in kept),
        )

    def widths(self, heading: Any, cell: Any) -> list[int]:
        """Return the width each column needs.

        Args:
            heading: Function from a heading to the part of it that must fit on one line.
            cell: The same for cells of columns that may be wrapped.
        """
        return [
            max(cells(heading(name)), *(cells(text if whole else cell(text)) for text in column), 1)
            for name, whole, *column in zip(self.columns, self.whole, *self.rows, strict=True)
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        fitting = next(self.layouts(options.max_width), None)
        lines = _framed(*fitting, rule="-" if options.ascii_only else "─") if fitting else self._stacked(options)
        yield unwrapped("")
        yield from lines
        if self.caption:
            yield unwrapped("")
            yield from Prose(self.caption).__rich_console__(console, options)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.measure import Measurement

        return Measurement(1, options.max_width)

    def _stacked(self, options: ConsoleOptions) -> Iterator[Text]:
        """Lay out one value a line, a blank line between rows."""
        for place, row in enumerate(self.rows):
            if place:
                yield unwrapped("")
            yield from Details(tuple(zip(self.columns, row, strict=True)))._lines(options.max_width)


@dataclass(frozen=True, slots=True)
class Details:
    """One value a line beside its name. A Rich renderable."""

    items: tuple[tuple[str, str], ...]

    def _lines(self, width: int) -> Iterator[Text]:
        from rich.text import Text

        margin = max((cells(name) for name, _ in self.items), default=0) + GAP
        for name, value in self.items:
            first, *others = wrapped(value, width - margin) or [""]
            yield Text.assemble((name, "dim"), " " * (margin - cells(name)), first, no_wrap=True, overflow="ignore")
            yield from (unwrapped(" " * margin + line) for line in others)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        return self._lines(options.max_width)


def table_of(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    caption: str | None = None,
    optional: Sequence[str] = (),
    whole: Sequence[str] = (),
) -> FittedTable:
    """Lay out rows under headings; numbers, as such or as text, go to the right; None shows as `-`.

    Args:
        columns: Headings, with the unit in them.
        rows: One value a column; numbers come already rounded or as text.
        caption: Remarks under the table, one a line.
        optional: Headings of columns to drop in a narrow terminal, the first ones first.
        whole: Headings of other columns than numbers whose cells are never wrapped.

    Raises:
        ValueError: If a heading in `optional` or `whole` is none of `columns`.
    """
    if unknown := {*optional, *whole} - set(columns):
        raise ValueError(f"no column {sorted(unknown)[0]!r}")
    listed = [tuple(row) for row in rows]
    texts = tuple(tuple("-" if value is None else printable(str(value)) for value in row) for row in listed)
    numeric = [
        all(row[place] in (None, "-") or NUMBER.fullmatch(str(row[place])) for row in listed)
        for place in range(len(columns))
    ]
    return FittedTable(
        columns=tuple(columns),
        rows=texts,
        whole=tuple(numeric[place] or name in whole for place, name in enumerate(columns)),
        numeric=tuple(numeric),
        optional=tuple(optional),
        caption=caption or "",
    )


def details_of(values: dict[str, Any]) -> Details:
    """Lay out one value a line beside its name, as `Output.result` does when a command gives no table of its own."""
    return Details(tuple((name.replace("_", " "), _detail(value)) for name, value in values.items()))


def _detail(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return "-" if value is None or shown == "" else printable(shown)


def _framed(table: FittedTable, widths: list[int], rule: str) -> Iterator[Text]:
    """Draw headings, a rule and rows."""
    from rich.text import Text

    for line in _row_lines(table.columns, table, widths):
        yield Text(line, "bold", no_wrap=True, overflow="ignore")
    yield unwrapped(rule * (sum(widths) + GAP * (len(widths) - 1) + 2 * MARGIN))
    for row in table.rows:
        yield from map(unwrapped, _row_lines(row, table, widths))


def _row_lines(row: Sequence[str], table: FittedTable, widths: list[int]) -> Iterator[str]:
    """Yield the lines of a row, each cell wrapped to its column."""
    parts = [[text] if cells(text) <= width else wrapped(text, width) for text, width in zip(row, widths, strict=True)]
    for number in range(max(map(len, parts), default=0)):
        texts = [lines[number] if number < len(lines) else "" for lines in parts]
        padded = [
            " " * (width - cells(text)) + text if is_right else text + " " * (width - cells(text))
            for text, width, is_right in zip(texts, widths, table.numeric, strict=True)
        ]
        yield (" " * MARGIN + (" " * GAP).join(padded)).rstrip()


def _widened(least: list[int], full: list[int], spare: int) -> list[int]:
    """Give spare characters to the columns that lack few, then to the others."""
    widths = list(least)
    for place in sorted(range(len(full)), key=lambda each: full[each] - least[each]):
        given = min(spare, full[place] - least[place])
        widths[place], spare = widths[place] + given, spare - given
    return widths


def _longest(text: str) -> str:
    return max((piece for word in text.split(" ") for piece in pieces(word)), key=cells, default="")


def _longest_word(text: str) -> str:
    return max(text.split(" "), key=cells)
