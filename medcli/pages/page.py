"""Parts of a page, and their rendering as HTML."""

from __future__ import annotations

from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from medcli.runtime.text import printable

GENERATOR = "medcli report"
"""Name in the head of each page."""
LONG_FACT = 48
"""Facts longer than this take a line of their own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Table with headings."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    num_text_columns: int = 1
    """Text columns, from the left; the others hold numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """Chart with title and caption."""

    svg: Markup
    title: str
    caption: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Thumbnail:
    """Picture inside the page."""

    source: str
    """`data:` URL."""
    alt: str
    caption: str
    side: int
    """Side in CSS pixels."""
    is_enlarged: bool
    """Show pixels as squares."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """Section of a page."""

    title: str
    anchor: str
    lead: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    """Warnings."""
    thumbnails: tuple[Thumbnail, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """HTML page."""

    title: str
    lead: str
    opening: tuple[str, ...]
    """Findings, a sentence each."""
    sections: tuple[Section, ...]
    footer: str


def html_of(page: Page) -> str:
    """Render a page as one document without scripts or external files; text from files is escaped."""
    environment = Environment(
        loader=PackageLoader("medcli.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(page=page, long_fact=LONG_FACT, generator=GENERATOR)


def _printable(value: object) -> object:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
