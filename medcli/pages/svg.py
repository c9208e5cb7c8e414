"""Elements of an SVG drawing. Text and attributes are escaped when they are written out."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree.ElementTree import Element, tostring

from markupsafe import Markup

from medcli.runtime.text import printable

COLOURS = 6
"""Colours of series, the classes `s0` to `s5`, after which they repeat."""
WIDTH = 420.0
"""User units across a chart. A phone shows it about as wide in CSS pixels, so text keeps its size there."""


def element(tag: str, children: Iterable[Element] = (), *, text: str = "", **attributes: str | float) -> Element:
    """Make an element.

    Args:
        tag: Its name.
        children: What stands in it.
        text: Text in it; unprintable characters are shown as escapes.
        **attributes: `class_` is `class`, other underscores are hyphens, numbers are rounded to a hundredth.
    """
    named = {name.rstrip("_").replace("_", "-"): _value(value) for name, value in attributes.items()}
    made = Element(tag, named)
    made.text = printable(text)
    made.extend(children)
    return made


def rectangle(box: tuple[float, float, float, float], *, title: str = "", **attributes: str | float) -> Element:
    """Make a rectangle.

    Args:
        box: Left, top, width, height.
        title: Its tooltip.
        **attributes: As for `element`.
    """
    x, y, width, height = box
    titles = [element("title", text=title)] if title else []
    return element("rect", titles, text="", x=x, y=y, width=width, height=height, **attributes)


def drawing(children: Iterable[Element], *, height: float, says: str) -> Markup:
    """A whole drawing, `WIDTH` wide, as markup for a page.

    Args:
        children: What it shows.
        height: User units from top to bottom.
        says: What it shows in words, for those who can't see it.
    """
    box = f"0 0 {_value(WIDTH)} {_value(height)}"
    made = element("svg", children, viewBox=box, role="img", aria_label=printable(says), class_="chart")
    return Markup(tostring(made, encoding="unicode"))  # everything in it was escaped by ElementTree


def points_of(places: Iterable[tuple[float, float]]) -> str:
    """Places as `points` of a polyline or polygon."""
    return " ".join(f"{_value(x)},{_value(y)}" for x, y in places)


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return value
    shown = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if shown == "-0" else shown
