"""Quality against cost, with error bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from markupsafe import Markup

from medcli.pages.axes import Scale, across, frame, upwards, widened
from medcli.pages.svg import WIDTH, drawing, element, points_of

HEIGHT = 280.0
RADIUS = 4.5
CAP = 3.5
"""Half the width of an error bar's end."""
ROOM_FOR_LABEL = 90.0
"""A label stands to the left of a point that has less room to its right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One configuration."""

    x: float
    y: float
    name: str
    error: float | None = None
    """Standard error of y."""
    has_label: bool = False
    """Whether the name stands beside it; it is in the tooltip in any case."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Points of one kind."""

    name: str
    points: tuple[Point, ...]
    is_line: bool = False
    """Whether they are joined, in order, such as a front."""
    has_marks: bool = True


def scatter(series: Sequence[Series], *, names: tuple[str, str], says: str) -> Markup:
    """Draw points; less is better on both axes, so the best lie below on the left.

    Args:
        series: At least one point in all; colours follow this order.
        names: What stands along the horizontal and the vertical axis.
        says: What the chart shows in words.
    """
    points = [point for one in series for point in one.points]
    x = across(*widened([point.x for point in points]))
    ends = [point.y + sign * (point.error or 0) for point in points for sign in (-1, 1)]
    y = upwards(*widened(ends), HEIGHT)
    made = frame(x, y, names=names)
    for place, one in enumerate(series):
        if one.is_line:
            corners = points_of((x.at(point.x), y.at(point.y)) for point in one.points)
            made.append(element("polyline", points=corners, class_=f"front s{place % 6}"))
    for place, one in enumerate(series):
        if one.has_marks:
            made += _marks(one.points, place, x, y)
    return drawing(made, height=HEIGHT, says=says)


def _marks(points: Iterable[Point], place: int, x: Scale, y: Scale) -> list[Element]:
    made = []
    for point in points:
        left, top, colour = x.at(point.x), y.at(point.y), f"s{place % 6}"
        if point.error:
            low, high = y.at(point.y - point.error), y.at(point.y + point.error)
            tops, feet = ([(left - CAP, end), (left + CAP, end), (left, end)] for end in (high, low))
            bar = [*tops, *reversed(feet)]
            made.append(element("polyline", points=points_of(bar), class_=f"bar {colour}"))
        error = f" ± {point.error:.3g}" if point.error else ""
        title = element("title", text=f"{point.name}: {point.x:.4g}, {point.y:.4g}{error}")
        made.append(element("circle", [title], cx=left, cy=top, r=RADIUS, class_=f"mark {colour}"))
        if point.has_label:
            is_left = left > WIDTH - ROOM_FOR_LABEL
            at = left - RADIUS - 3 if is_left else left + RADIUS + 3
            made.append(element("text", text=point.name, x=at, y=top - 6, class_="tick end" if is_left else "tick"))
    return made
