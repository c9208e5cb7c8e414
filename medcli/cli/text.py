"""Text wrapped between words."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medcli.runtime.text import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.text import Text

LONG_WORD = 24
"""Length of a word in a table, such as a path, from which lines may break after its slashes."""
COMMAND = re.compile(r"\b(medcli|accelerate|torchrun|python|pip|hf) [a-z-]")
"""A command in a line."""
WHOLE = re.compile(rf"\s*({COMMAND.pattern}|wrote |\|)")
"""Start of a line that is never wrapped: a command, the name of what was written, a row of a Markdown table."""


@dataclass(frozen=True, slots=True)
class Prose:
    """Sentences, wrapped between words; commands and the names of written files stay whole. A Rich renderable."""

    text: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        for line in self.text.split("\n"):
            text = printable(line)
            parts = [text] if WHOLE.match(text) else wrapped(text, options.max_width, breaks_paths=False)
            yield from map(unwrapped, parts or [""])


def wrapped(text: str, width: int, *, breaks_paths: bool = True) -> list[str]:
    """Break text into lines between words; a word longer than the width is left whole.

    Args:
        text: One line.
        width: Characters of a line.
        breaks_paths: Break words longer than `LONG_WORD` after slashes, too.
    """
    lines: list[str] = []
    for word in text.split(" "):
        parts = pieces(word) if breaks_paths else [word]
        is_too_long = max(map(cells, parts), default=0) > width
        for place, piece in enumerate([word] if is_too_long else parts):
            glue = "" if place else " "
            if lines and (is_too_long or cells(lines[-1] + glue + piece) <= width):
                lines[-1] += glue + piece
            else:
                lines.append(piece)
    return [line.rstrip() for line in lines]


def padded(text: str, width: int) -> str:
    """Add spaces so that no word crosses the edge of a terminal; without a line break a command can still be copied.

    Words in quotes are left as they are.
    """
    place, done = 0, ""
    for word in re.findall(r"\s*(?:'[^']*'\S*|\"[^\"]*\"\S*|\S+)|\s+", text):
        bare = word.lstrip()
        if place and 0 < cells(bare) <= width < place + cells(word):
            done, place, word = done + " " * (width - place), 0, bare
        done += word
        place = (place + cells(word)) % width
    return done


def sign(wanted: str, plain: str) -> str:
    """Return characters, or their ASCII form if stdout's encoding lacks them."""
    return wanted if (sys.stdout.encoding or "").lower().replace("-", "") == "utf8" else plain


def fixed(value: float | None, spec: str) -> str | None:
    """Format a number, such as `.3f`; None stays an empty cell."""
    return None if value is None else format(value, spec)


def pieces(word: str) -> list[str]:
    """Split a long word after its slashes."""
    return re.findall(r"[^/]*/+|[^/]+$", word) if cells(word) > LONG_WORD else [word]


def cells(text: str) -> int:
    """Width of text in a terminal."""
    from rich.cells import cell_len

    return cell_len(text)


def unwrapped(text: str) -> Text:
    """Rich text of one line that is never wrapped or cut."""
    from rich.text import Text

    return Text(text, no_wrap=True, overflow="ignore")
