"""How often each solver step triggered a move, a row for each move along the ladder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from markupsafe import Markup

from medcli.pages.axes import LEFT, TOP, across, short
from medcli.pages.svg import COLOURS, drawing, element, rectangle

MOST_BARS = 60
ROW, FOOT = 74.0, 36.0
"""User units of a row, and below the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Moves:
    """One move along the ladder."""

    name: str
    """Such as `4 to 16`."""
    steps: tuple[int, ...]
    """Solver step of each image that made it."""


def histogram(moves: Sequence[Moves], num_steps: int, num_images: int) -> Markup:
    """Draw a row of bars a move, all over the same steps.

    Args:
        moves: In the order of the ladder.
        num_steps: Solver steps of an image.
        num_images: Images of the run, made the move or not.
    """
    width = -(-num_steps // MOST_BARS)
    x = across(0, num_steps)
    made = []
    for row, move in enumerate(moves):
        bottom = TOP + (row + 1) * ROW
        made += _row(move, row, width, num_steps, num_images, bottom)
    for value in x.ticks():
        if value == round(value):
            made.append(
                element("text", text=short(value), x=x.at(value), y=TOP + len(moves) * ROW + 15, class_="tick middle")
            )
    foot = TOP + len(moves) * ROW + FOOT - 4
    made.append(element("text", text="solver step", x=(x.start + x.end) / 2, y=foot, class_="name middle"))
    told = "; ".join(f"{move.name}: {_in_words(move, num_images)}" for move in moves)
    return drawing(made, height=TOP + len(moves) * ROW + FOOT, says=f"Histogram of switch steps. {told}")


def _row(move: Moves, row: int, width: int, num_steps: int, num_images: int, bottom: float) -> list[Element]:
    x = across(0, num_steps)
    counts = Counter(step // width for step in move.steps)
    tallest = max(counts.values(), default=1)
    made = [
        element("text", text=f"{move.name} mediators", x=LEFT, y=bottom - ROW + 14, class_="label"),
        element("text", text=_in_words(move, num_images), x=x.end, y=bottom - ROW + 14, class_="tick end"),
        element("line", x1=x.start, x2=x.end, y1=bottom, y2=bottom, class_="axis"),
        element("text", text=short(tallest) if counts else "0", x=LEFT - 6, y=bottom - ROW + 30, class_="tick end"),
    ]
    for place, count in sorted(counts.items()):
        first, last = place * width, min((place + 1) * width, num_steps)
        left, right, height = x.at(first), x.at(last), (ROW - 22) * count / tallest
        named = f"step {first}" if last == first + 1 else f"steps {first} to {last - 1}"
        box = (left, bottom - height, max(right - left - 0.6, 0.6), height)
        made.append(rectangle(box, title=f"{named}: {count} images", class_=f"fill s{row % COLOURS}"))
    return made


def _in_words(move: Moves, num_images: int) -> str:
    if not move.steps:
        return f"none of {num_images} images"
    mean = sum(move.steps) / len(move.steps)
    return f"{len(move.steps)} of {num_images} images, mean step {mean:.1f}"
