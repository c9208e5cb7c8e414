"""Scales, ticks and the frame of a chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from medcli.pages.svg import WIDTH, element

LEFT, RIGHT, TOP, BOTTOM = 52.0, 14.0, 12.0, 42.0
"""Room around what is drawn."""
NUM_TICKS = 5
STEPS = (1, 2, 2.5, 5, 10)
"""Distances between ticks, in powers of ten."""
ROUNDING, TINY = 1e-9, 1e-100
MARGIN = 0.06
"""Share of the range left free at its ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """Where values lie on an axis."""

    low: float
    high: float
    start: float
    """User units at `low`."""
    end: float
    """User units at `high`."""

    def at(self, value: float) -> float:
        """User units of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values inside the range, about `NUM_TICKS`."""
        span = (self.high - self.low) / NUM_TICKS
        power = 10.0 ** math.floor(math.log10(span))
        step = next(step * power for step in STEPS if step * power >= span * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [place * step for place in range(first, last + 1)]


def across(low: float, high: float) -> Scale:
    """The horizontal scale of a range."""
    return Scale(low=low, high=high, start=LEFT, end=WIDTH - RIGHT)


def upwards(low: float, high: float, height: float) -> Scale:
    """The vertical scale of a range in a chart so high."""
    return Scale(low=low, high=high, start=height - BOTTOM, end=TOP)


def widened(values: Sequence[float], *, from_zero: bool = False) -> tuple[float, float]:
    """A range that holds the values with some room, never empty."""
    low, high = (0.0 if from_zero else min(values)), max(values)
    size = max(abs(low), abs(high))
    # Where rounding is all that tells the ends apart, the range is that of one value.
    span = high - low if high - low > ROUNDING * size + TINY else max(size, TINY)
    span = 1.0 if span <= TINY else span
    return (low if from_zero else low - MARGIN * span), high + MARGIN * span


def short(value: float) -> str:
    """A number as a label: three digits, or more where it is whole."""
    if value == round(value) and abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def frame(x: Scale, y: Scale, *, names: tuple[str, str], whole_x: bool = False) -> list[Element]:
    """Grid lines, tick labels and names of both axes.

    Args:
        x: The horizontal scale.
        y: The vertical scale.
        names: What stands along the horizontal and the vertical axis.
        whole_x: Whether only whole numbers make sense across.
    """
    made = []
    for value in y.ticks():
        made.append(element("line", x1=x.start, x2=x.end, y1=y.at(value), y2=y.at(value), class_="grid"))
        made.append(element("text", text=short(value), x=x.start - 6, y=y.at(value) + 4, class_="tick end"))
    for value in x.ticks():
        if not whole_x or value == round(value):
            made.append(element("text", text=short(value), x=x.at(value), y=y.start + 15, class_="tick middle"))
    made.append(element("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis"))
    made.append(element("text", text=names[0], x=(x.start + x.end) / 2, y=y.start + BOTTOM - 8, class_="name middle"))
    middle = (y.start + y.end) / 2
    turned = f"rotate(-90 12 {middle:.2f})"
    made.append(element("text", text=names[1], x=12.0, y=middle, transform=turned, class_="name middle"))
    return made
