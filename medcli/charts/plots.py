"""Kinds of charts: points with error bars, values over solver steps, moves of images, maps of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from medcli.charts.figure import QUIET, SERIES, TIP
from medcli.runtime.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Axes = Any
"""matplotlib's `Axes`; its type hints differ between versions."""
MOST_TIPS = 500
"""Series with more points than this have no tooltips."""
MOST_BARS = 60
MOST_LAYER_TICKS = 14
MOST_CHARACTERS = 28
LONG_COLUMN_NAME = 6
"""Length above which names over columns are slanted."""
OFFSETS = ((7, 4), (-7, 4), (7, -11), (-7, -11), (7, 16), (-7, 16), (7, -23), (-7, -23))
"""Places of a point's label in points, preferred first; the text ends there if it is to the left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One configuration."""

    x: float
    y: float
    name: str = ""
    """Shown as a tooltip in an SVG."""
    error: float | None = None
    """Standard error of y."""
    has_label: bool = False
    """Write the name beside the point."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Points of one kind."""

    name: str
    points: tuple[Point, ...]
    marker: str = "o"
    kind: Literal["points", "line", "ring", "reference"] = "points"
    """line: points joined in order; ring: a large ring around each; reference: a grey line, without points."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Moves:
    """Moves of images from one ladder index to the next."""

    name: str
    """For example `4 to 16`."""
    steps: Mapping[int, int]
    """Number of images that moved by the solver step at which they did."""

    def summary(self, num_images: int) -> str:
        """Number of images that moved, of `num_images`, and their mean step."""
        if not self.steps:
            return f"none of {num_images} images"
        num_moved = sum(self.steps.values())
        mean = sum(step * count for step, count in self.steps.items()) / num_moved
        return f"{num_moved} of {num_images} images, mean step {mean:.1f}"


def scatter(
    axes: Axes, series: Sequence[Series], *, x: str, y: str, vertical_lines: Mapping[str, float] | None = None
) -> None:
    """Draw series of points with error bars and a legend.

    Args:
        axes: Where to draw.
        series: At least one point in all.
        x: Label of the horizontal axis.
        y: Label of the vertical axis.
        vertical_lines: Places of dotted lines by name.
    """
    for place, one in enumerate(series):
        _draw_series(axes, one, SERIES[place % len(SERIES)], z=3 + place)
    for name, where in (vertical_lines or {}).items():
        axes.axvline(where, color=QUIET, ls=":", lw=1.2, label=name)
    axes.set(xlabel=x, ylabel=y)
    axes.margins(0.08)
    if len(series) > 1:
        add_legend(axes)
    _label_points(axes, [point for one in series if one.kind != "reference" for point in one.points])


def _draw_series(axes: Axes, series: Series, colour: str, z: float) -> None:
    xs, ys = [point.x for point in series.points], [point.y for point in series.points]
    if series.kind == "reference":
        axes.plot(xs, ys, color=QUIET, lw=1.2, label=series.name, zorder=2)
        return
    style: dict[str, Any] = {"color": colour, "zorder": z, "ms": 5, "marker": series.marker}
    if series.kind == "ring":
        style |= {"ms": 12, "marker": "o", "mfc": "none", "mew": 1.6}
    errors = [max(point.error or 0.0, 0.0) for point in series.points]
    line = {"ls": "-" if series.kind == "line" else "none", "lw": 1.2, "elinewidth": 1}
    # One artist for the whole series is what the legend shows; one for each point carries its tooltip.
    axes.errorbar(xs, ys, yerr=errors if any(errors) else None, label=series.name, **line, **style)
    for point, error in zip(series.points, errors, strict=True) if len(xs) <= MOST_TIPS else ():
        tip = f"{point.name}: {point.x:.4g}, {point.y:.4g}" + (f" ± {error:.3g}" if error else "")
        axes.plot([point.x], [point.y], gid=TIP + printable(tip), ls="none", **style)


def _label_points(axes: Axes, points: Sequence[Point]) -> None:
    """Write names beside their points, each where it overlaps other names and points least."""
    from matplotlib.transforms import Bbox

    if not any(point.has_label for point in points):
        return
    figure = axes.figure
    figure.draw_without_rendering()  # fixes the layout
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in axes.transData.transform([(p.x, p.y) for p in points])]
    for point in points:
        if not point.has_label:
            continue
        name = printable(point.name)
        name = name if len(name) <= MOST_CHARACTERS else f"{name[: MOST_CHARACTERS - 1]}…"
        label = axes.annotate(name, (point.x, point.y), (0, 0), textcoords="offset points", fontsize=9, color=QUIET)
        label.set_in_layout(False)

        def cost(offset: tuple[int, int], label: Any = label) -> tuple[int, bool]:
            label.set(position=offset, ha="left" if offset[0] > 0 else "right")
            box = label.get_window_extent()
            is_outside = box.x0 < 0 or box.x1 > figure.bbox.x1
            return (box.count_overlaps(taken) + 100 * is_outside, is_outside)

        cost(min(OFFSETS, key=cost))
        taken.append(label.get_window_extent())


def add_legend(axes: Axes) -> None:
    """Put the legend above the axes, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure = axes.figure
    columns = len(labels) if sum(map(len, labels)) + 5 * len(labels) < 9 * figure.get_figwidth() else 2
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, columnspacing=1.2)


def step_curve(axes: Axes, values: Sequence[float], level: Sequence[float], *, names: tuple[str, str], y: str) -> None:
    """Draw a value for each solver step, from zero up, with a dashed reference.

    Args:
        axes: Where to draw.
        values: One for each step.
        level: The reference, as many values.
        names: Of the two in the legend.
        y: Label of the vertical axis.
    """
    axes.stairs(values, baseline=None, color=SERIES[0], lw=1.8, label=names[0])
    axes.stairs(level, baseline=None, color=QUIET, lw=1.2, ls="--", label=names[1])
    axes.set(xlabel="solver step", ylabel=y, xlim=(0, len(values)), ylim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    add_legend(axes)


def move_histogram(figure: Figure, moves: Sequence[Moves], num_steps: int, num_images: int) -> None:
    """Draw how many images moved at each solver step, a row of bars for each move along the ladder.

    Args:
        figure: An empty figure.
        moves: In the order of the ladder.
        num_steps: Solver steps of an image.
        num_images: Images of the run.
    """
    width = -(-num_steps // MOST_BARS)
    edges = [*range(0, num_steps, width), num_steps]
    grid = figure.subplots(len(moves), 1, sharex=True, squeeze=False)
    for row, move in enumerate(moves):
        axes = grid[row, 0]
        weights, color = list(move.steps.values()), SERIES[row % len(SERIES)]
        counts, _, bars = axes.hist(list(move.steps), bins=edges, weights=weights, color=color, rwidth=0.94)
        for count, bar, (first, last) in zip(counts, bars, pairwise(edges), strict=True):
            named = f"step {first}" if last == first + 1 else f"steps {first} to {last - 1}"
            bar.set_gid(f"{TIP}{named}: {count:.0f} images")
        axes.set(ylabel="images", xlim=(0, num_steps), ylim=(0, max(1, *counts) * 1.05))
        axes.set_title(f"{move.name} mediators: {move.summary(num_images)}", loc="left", fontsize=10)
        axes.grid(visible=False, axis="x")
        axes.locator_params(axis="y", nbins=3, integer=True)
    axes.set_xlabel("solver step")
    axes.xaxis.get_major_locator().set_params(integer=True)


def heat_map(
    axes: Axes, values: Any, places: Sequence[float], *, label: str, highest: float | None = None, below: bool = False
) -> None:
    """Draw values of layers by progress, the first layer on top, dark where values are low, with a colour bar.

    Args:
        axes: Where to draw.
        values: A row for each layer, one value for each place.
        places: Progress in [0, 1], rising; a column reaches half-way to its neighbours.
        label: What the colours mean, with the unit.
        highest: Value of the brightest colour, the darkest being 0; None: the range of the values.
        below: Put the colour bar below the map, not beside it.
    """
    num_layers = len(values)
    edges = [0.0, *((left + right) / 2 for left, right in pairwise(places)), 1.0]
    rows = [layer - 0.5 for layer in range(num_layers + 1)]
    limits: dict[str, float] = {} if highest is None else {"vmin": 0, "vmax": highest}
    mesh = axes.pcolormesh(edges, rows, values, rasterized=True, **limits)
    where: dict[str, Any] = {"location": "bottom", "aspect": 40} if below else {}
    bar = axes.figure.colorbar(mesh, ax=axes, label=label, **where)
    bar.solids.set_rasterized(True)
    bar.outline.set_visible(False)
    axes.set(xlabel="progress (0 noise, 1 image)", ylabel="layer", ylim=(num_layers - 0.5, -0.5))
    axes.set_yticks(range(0, num_layers, -(-num_layers // MOST_LAYER_TICKS)))
    axes.grid(visible=False)


def picture_grid(axes: Axes, images: Sequence[Sequence[Any]], rows: Sequence[str], columns: Sequence[str]) -> None:
    """Lay out pictures with a name before each row and above each column.

    Args:
        axes: Where to draw.
        images: Rows of pictures of the same size: (Y, X), or (Y, X, 3) for colour, uint8.
        rows: Names of the rows.
        columns: Names of the columns.
    """
    import numpy as np

    height, width = images[0][0].shape[:2]
    gap = max(1, width // 16)
    ends = ((0, gap), (0, gap), (0, 0))[: images[0][0].ndim]
    pixels = np.concatenate(
        [np.concatenate([np.pad(one, ends, constant_values=255) for one in row], 1) for row in images]
    )
    axes.imshow(pixels, interpolation="nearest", cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([(width - 1) / 2 + place * (width + gap) for place in range(len(columns))], columns)
    axes.set_yticks([(height - 1) / 2 + place * (height + gap) for place in range(len(rows))], rows)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False, labelsize=9)
    if max(map(len, columns)) > LONG_COLUMN_NAME:
        for label in axes.get_xticklabels():
            label.set(rotation=25, ha="left", rotation_mode="anchor")
    axes.grid(visible=False)
    axes.set_frame_on(False)
