"""Quality against cost, with error bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from markupsafe import Markup

from medcli.pages.axes import LEFT, Scale, across, frame, upwards, widened
from medcli.pages.svg import COLOURS, WIDTH, drawing, element, points_of

HEIGHT = 280.0
RADIUS = 4.5
CAP = 3.5
"""Half the width of an error bar's end."""
CHARACTER, LINE = 6.4, 14.0
"""User units of a character, about, and of a line of text."""
MOST_CHARACTERS = 28
GAP = RADIUS + 3
"""Between a point's middle and its name."""


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
            made.append(element("polyline", points=corners, class_=f"front s{place % COLOURS}"))
    for place, one in enumerate(series):
        if one.has_marks:
            made += _marks(one.points, place, x, y)
    made += _labels([point for one in series if one.has_marks for point in one.points], x, y)
    return drawing(made, height=HEIGHT, says=says)


def _marks(points: Iterable[Point], place: int, x: Scale, y: Scale) -> list[Element]:
    made = []
    for point in points:
        left, top, colour = x.at(point.x), y.at(point.y), f"s{place % COLOURS}"
        if point.error:
            low, high = y.at(point.y - point.error), y.at(point.y + point.error)
            tops, feet = ([(left - CAP, end), (left + CAP, end), (left, end)] for end in (high, low))
            made.append(element("polyline", points=points_of([*tops, *reversed(feet)]), class_=f"bar {colour}"))
        error = f" ± {point.error:.3g}" if point.error else ""
        title = element("title", text=f"{point.name}: {point.x:.4g}, {point.y:.4g}{error}")
        made.append(element("circle", [title], cx=left, cy=top, r=RADIUS, class_=f"mark {colour}"))
    return made


def _labels(points: Sequence[Point], x: Scale, y: Scale) -> list[Element]:
    """Names beside their points: each where it covers no other name and no point, if there is such a place."""
    taken = [_Box(x.at(one.x) - RADIUS, y.at(one.y) - RADIUS, 2 * RADIUS, 2 * RADIUS) for one in points]
    made = []
    for point in points:
        if not point.has_label:
            continue
        name = shortened(point.name)
        width, left, top = CHARACTER * len(name), x.at(point.x), y.at(point.y)
        shifts = (-LINE - 2, 2, -2.4 * LINE, 1.4 * LINE)
        boxes = [_Box(left + side, top + shift, width, LINE) for shift in shifts for side in (GAP, -GAP - width)]
        inside = [box for box in boxes if box.left >= LEFT and box.left + width <= WIDTH] or boxes
        best = min(inside, key=lambda box: sum(box.covers(other) for other in taken))
        taken.append(best)
        start, how = (best.left, "tick") if best.left > left else (left - GAP, "tick end")
        made.append(element("text", text=name, x=start, y=best.top + LINE - 3, class_=how))
    return made


def shortened(name: str) -> str:
    """A name that fits beside a point; the whole one is in the tooltip."""
    return name if len(name) <= MOST_CHARACTERS else f"{name[: MOST_CHARACTERS - 1]}…"


@dataclass(frozen=True, slots=True)
class _Box:
    left: float
    top: float
    width: float
    height: float

    def covers(self, other: _Box) -> bool:
        across_it = self.left < other.left + other.width and other.left < self.left + self.width
        return across_it and self.top < other.top + other.height and other.top < self.top + self.height
