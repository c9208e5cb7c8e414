"""Lines over solver steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from medcli.pages.axes import across, frame, upwards, widened
from medcli.pages.svg import COLOURS, drawing, element, points_of

HEIGHT = 236.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A value at every step."""

    name: str
    values: tuple[float, ...]
    is_level: bool = False
    """Whether it is what others are held against: dashed."""


def curves(lines: Sequence[Curve], *, names: tuple[str, str], says: str) -> Markup:
    """Draw values that hold for a whole step each, from zero upwards.

    Args:
        lines: Curves of one length; their colours follow this order.
        names: What stands along the horizontal and the vertical axis.
        says: What the chart shows in words.
    """
    num_steps = len(lines[0].values)
    x = across(0, num_steps)
    y = upwards(*widened([value for line in lines for value in line.values], from_zero=True), HEIGHT)
    made = frame(x, y, names=names, whole_x=True)
    for place, line in enumerate(lines):
        corners = [(x.at(edge), y.at(value)) for step, value in enumerate(line.values) for edge in (step, step + 1)]
        title = element("title", text=line.name)
        kind = "level" if line.is_level else f"line s{place % COLOURS}"
        made.append(element("polyline", [title], points=points_of(corners), class_=kind))
    return drawing(made, height=HEIGHT, says=says)
