"""A map of values, layers by progress."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup

from medcli.pages.axes import LEFT, RIGHT, TOP, short
from medcli.pages.svg import WIDTH, drawing, element, rectangle

COLOURS = ((0, 32, 77), (61, 78, 108), (124, 123, 120), (188, 175, 111), (255, 233, 69))
"""Stops of the colour map cividis: lightness rises throughout, and it reads alike for the colour-blind."""
TALLEST, LOWEST = 22.0, 7.0
"""Most and fewest user units of a row."""
BODY = 260.0
FOOT = 66.0
NUM_SHADES = 64
"""Of the key."""
OVERLAP = 0.3
"""User units by which cells overlap, or hairlines show between them."""


def heat_map(values: Sequence[Sequence[float]], places: Sequence[float], *, highest: float, says: str) -> Markup:
    """Draw rows of cells, the first on top, dark where values are low, and a key below.

    Args:
        values: A row a layer, as long as `places`.
        places: Progress of each column in [0, 1], rising.
        highest: The value of the brightest colour; the darkest is 0.
        says: What the map shows in words.
    """
    row = min(TALLEST, max(LOWEST, BODY / len(values)))
    inner = WIDTH - LEFT - RIGHT
    middles = [(left + right) / 2 for left, right in pairwise(places)]
    edges = [LEFT + inner * place for place in (0.0, *middles, 1.0)]
    made = []
    for layer, line in enumerate(values):
        top = TOP + layer * row
        if layer % -(-14 // max(1, int(row))) == 0:
            made.append(element("text", text=f"{layer}", x=LEFT - 6, y=top + row / 2 + 4, class_="tick end"))
        for place, (value, (left, right)) in enumerate(zip(line, pairwise(edges), strict=True)):
            title = f"layer {layer}, progress {places[place]:.2f}: {value:.3g}"
            box = (left, top, right - left + OVERLAP, row + OVERLAP)
            made.append(rectangle(box, title=title, fill=_colour(value / highest)))
    bottom = TOP + row * len(values)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        made.append(element("text", text=short(share), x=LEFT + inner * share, y=bottom + 15, class_="tick middle"))
    middle = LEFT + inner / 2
    made.append(element("text", text="progress: 0 noise, 1 image", x=middle, y=bottom + 30, class_="name middle"))
    turned = f"rotate(-90 12 {(TOP + bottom) / 2:.2f})"
    made.append(element("text", text="layer", x=12.0, y=(TOP + bottom) / 2, transform=turned, class_="name middle"))
    for place in range(NUM_SHADES):
        box = (LEFT + inner * place / NUM_SHADES, bottom + 40, inner / NUM_SHADES + OVERLAP, 8.0)
        made.append(rectangle(box, fill=_colour((place + 0.5) / NUM_SHADES)))
    made.append(element("text", text="0 redundant", x=LEFT, y=bottom + 60, class_="tick"))
    made.append(element("text", text=short(highest), x=LEFT + inner, y=bottom + 60, class_="tick end"))
    return drawing(made, height=bottom + FOOT, says=says)


def _colour(share: float) -> str:
    """The colour of a share of the highest value."""
    place = min(max(share, 0.0), 1.0) * (len(COLOURS) - 1)
    low = min(int(place), len(COLOURS) - 2)
    mixed = (round(a + (b - a) * (place - low)) for a, b in zip(COLOURS[low], COLOURS[low + 1], strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)
