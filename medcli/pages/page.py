"""A page from its parts, and the page as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from medcli.pages.svg import COLOURS
from medcli.runtime.text import printable

LONG_FACT = 48
"""Characters from which a fact takes a line of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows under headings."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    num_text_columns: int = 1
    """Columns of words, from the left; the others hold numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A chart and what is to be known about it."""

    svg: Markup
    title: str
    caption: str
    legend: tuple[tuple[str, str], ...] = ()
    """Class and name of each series: `s0` to `s5`, `level`, `front s1`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Thumbnail:
    """A picture inside the page."""

    source: str
    """A `data:` address."""
    alt: str
    side: int
    """CSS pixels it wants."""
    is_enlarged: bool
    """Whether its pixels are shown as squares."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """Whatever is known of one thing."""

    title: str
    anchor: str
    lead: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    """What a reader must not miss."""
    thumbnails: tuple[Thumbnail, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """All of it."""

    title: str
    lead: str
    sections: tuple[Section, ...]
    footer: str


def legend_of(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The legend of series that were drawn in this order."""
    return tuple((f"s{place % COLOURS}", name) for place, name in enumerate(names))


def html_of(page: Page) -> str:
    """The page as one document: nothing is loaded, nothing is run, and text from files is escaped."""
    environment = Environment(
        loader=PackageLoader("medcli.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_made_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(page=page, long_fact=LONG_FACT)


def _made_printable(value: object) -> object:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
