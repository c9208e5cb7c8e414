"""Charts drawn with matplotlib: SVG for HTML pages, PNG for files. The same inputs give the same bytes."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

from markupsafe import Markup

from medcli.runtime.files import atomic_path
from medcli.runtime.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    Draw = Callable[[Figure], None]
    """Fill an empty figure."""

INK, QUIET, RULE = "#1b1f24", "#59636e", "#d5dae0"
"""Text; axes and reference lines; grid."""
SERIES = ("#0072b2", "#d55e00", "#00805f", "#a8457e", "#8a6d00", "#4a4fb5")
"""Series in order: after Okabe and Ito, distinguishable with any colour vision, darker where small text needs it."""
PAGE_COLOURS = {INK: "ink", QUIET: "quiet", RULE: "rule", **{colour: f"s{i}" for i, colour in enumerate(SERIES)}}
"""CSS variable of each colour in a page, which has a light and a dark set."""
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # names come from files: a $ is a $
    "font.size": 11,
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the layout depends on no other installed font
    "text.color": INK,
    "axes.prop_cycle": f"cycler(color={list(SERIES)})",
    "axes.titlesize": 11,
    "figure.titlesize": 12,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": QUIET,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.formatter.limits": (-4, 6),
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "errorbar.capsize": 3,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "image.cmap": "cividis",  # lightness rises throughout
}
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
PNG_DPI = 120
SVG_DPI = 144
"""Resolution of the cells of a heat map, the only pixels in an SVG."""
UNITS_PER_INCH = 72
SVG_WIDTH = 396
"""Units across a chart in a page. A phone shows it about as wide in CSS pixels, so text keeps its size there."""
TIP = "tip: "
"""Prefix of an artist's id that becomes its tooltip."""


def svg(draw: Draw, *, height: float, description: str) -> Markup:
    """Draw a chart as an `<svg>` element for a page.

    Args:
        draw: Fills the figure.
        height: In the units of `SVG_WIDTH`.
        description: The chart in words, for screen readers; must differ between the charts of a page.
    """
    content = io.StringIO()
    size = (SVG_WIDTH / UNITS_PER_INCH, height / UNITS_PER_INCH)
    with _figure(draw, size, svg_hashsalt=printable(description)) as figure:
        figure.savefig(content, format="svg", dpi=SVG_DPI, transparent=True, metadata=NO_METADATA)
    return Markup(_embedded(content.getvalue(), description))  # matplotlib escapes text and attributes


def save_png(path: Path, draw: Draw, *, title: str, size: tuple[float, float] = (7, 4.4)) -> None:
    """Draw a chart into a PNG file, which is replaced if it exists.

    Args:
        draw: Fills the figure.
        title: Heading of the picture.
        size: Width and height in inches.
    """

    def draw_titled(figure: Figure) -> None:
        draw(figure)
        if figure.legends:  # above the axes: the layout keeps it clear of their titles, not of the figure's
            figure.legends[0].set_title(printable(title))
        else:
            figure.suptitle(printable(title))

    with _figure(draw_titled, size) as figure, atomic_path(path, force=True) as temporary:
        figure.savefig(temporary, format="png", dpi=PNG_DPI, metadata={"Software": None})


@contextmanager
def _figure(draw: Draw, size: tuple[float, float], svg_hashsalt: str = "") -> Iterator[Figure]:
    """Yield a filled figure in our style, independent of any matplotlibrc. pyplot is not used."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)  # remarks on fonts and caches
    try:
        import matplotlib
        from matplotlib.figure import Figure

        with matplotlib.rc_context(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # glyphs that the font lacks: a browser has them
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            matplotlib.rcParams["svg.hashsalt"] = svg_hashsalt
            figure = Figure(figsize=size, layout="constrained")
            draw(figure)
            yield figure
    finally:
        logger.setLevel(level)


def _embedded(document: str, description: str) -> str:
    """Turn matplotlib's SVG document into an element: scaled by the page, coloured by its variables, with tooltips."""
    content = document[document.index("<svg") :].rstrip()
    found = re.search(r'viewBox="[^"]*"', content)
    assert found is not None
    label = quoteattr(printable(description))
    root = f'<svg {found[0]} role="img" aria-label={label} class="chart">'
    content = root + content[content.index(">") + 1 :]
    content = re.sub(r"<defs>\s*<style.*?</defs>\s*", "", content, count=1, flags=re.DOTALL)
    content = re.sub(r"<g id=('[^']*'|\"[^\"]*\")>", lambda group: _group(group[1][1:-1]), content)
    content = re.sub(r' id="image\w*"', "", content)
    return re.sub(r"(?<=: )#[0-9a-f]{6}\b", lambda colour: _page_colour(colour[0]), content)


def _group(name: str) -> str:
    return f"<g><title>{name.removeprefix(TIP)}</title>" if name.startswith(TIP) else "<g>"


def _page_colour(colour: str) -> str:
    return f"var(--{PAGE_COLOURS[colour]})" if colour in PAGE_COLOURS else colour
