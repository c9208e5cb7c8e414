from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from xml.etree.ElementTree import fromstring

import numpy as np
import pytest
from matplotlib.figure import Figure

from medcli.charts.figure import svg
from medcli.charts.plots import (
    MOST_BARS,
    MOST_TIPS,
    Moves,
    Point,
    Series,
    heat_map,
    move_histogram,
    picture_grid,
    scatter,
    step_curve,
)


def figure_of(draw: Callable[[Any], None]) -> Figure:
    figure = Figure(layout="constrained")
    draw(figure)
    return figure


def tips(draw: Callable[[Any], None]) -> list[str]:
    drawn = str(svg(draw, height=240, description="d")).replace("<svg ", '<svg xmlns:xlink="x" ', 1)
    return [str(title.text) for title in fromstring(drawn).iter("title")]


def scattered(*series: Series, **options: Any) -> Callable[[Any], None]:
    return lambda figure: scatter(figure.subplots(), series, x="a", y="b", **options)


def test_points_carry_their_names_and_errors() -> None:
    points = (Point(x=1, y=10, name="p", error=2), Point(x=2, y=12.5, name="<q>"))
    assert tips(scattered(Series(name="s", points=points))) == ["p: 1, 10 ± 2", "<q>: 2, 12.5"]
    many = tuple(Point(x=x, y=x, name="p") for x in range(MOST_TIPS + 1))
    assert tips(scattered(Series(name="s", points=many))) == []


def test_error_bars_reach_as_far_as_the_error() -> None:
    axes = figure_of(scattered(Series(name="s", points=(Point(x=1, y=10, error=2), Point(x=2, y=11))))).axes[0]
    (bars,) = axes.containers
    segments = bars[2][0].get_segments()
    assert [segment[:, 1].tolist() for segment in segments] == [[8, 12], [11, 11]]


def test_series_differ_in_colour_and_stand_in_the_legend_with_their_lines() -> None:
    points = (Point(x=1, y=1), Point(x=2, y=2))
    kinds = ("points", "line", "reference", "ring")
    series = [Series(name=kind, points=points, kind=kind) for kind in kinds]  # type: ignore[arg-type]
    figure = figure_of(scattered(*series, vertical_lines={"budget": 1.5}))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["reference", "budget", "points", "line", "ring"]
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines["budget"].get_xdata() == [1.5, 1.5]
    assert [one.lines[0].get_linestyle() for one in figure.axes[0].containers] == ["None", "-", "None"]
    assert len({one.lines[0].get_color() for one in figure.axes[0].containers}) == 3


def test_labels_stay_apart_and_inside() -> None:
    points = [Point(x=1 + step / 1000, y=1, name=f"configuration {step}", has_label=True) for step in range(4)]
    points.append(Point(x=10, y=2, name="x" * 99, has_label=True))
    figure = figure_of(scattered(Series(name="s", points=tuple(points))))
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert all(box.count_overlaps(boxes) == 1 for box in boxes)  # itself
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert len(figure.axes[0].texts[-1].get_text()) < 40


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, 1e-300, -1e99, 1e99])
@pytest.mark.parametrize("error", [None, 0.0, -1.0, 1e99])
def test_any_single_point_makes_a_chart(value: float, error: float | None) -> None:
    point = Point(x=value, y=value, name="p", error=error, has_label=True)
    drawn = svg(scattered(Series(name="s", points=(point,))), height=240, description="d")
    assert "nan" not in re.sub(r"<text.*?</text>", "", drawn)


def test_a_step_curve_holds_for_a_whole_step_from_zero_up() -> None:
    figure = figure_of(lambda figure: step_curve(figure.subplots(), [1.0, 3.0], [4.0, 4.0], names=("m", "l"), y="y"))
    axes = figure.axes[0]
    curve, level = axes.patches
    assert [[list(part) for part in one.get_data()[:2]] for one in (curve, level)] == [
        [[1, 3], [0, 1, 2]],
        [[4, 4], [0, 1, 2]],
    ]
    assert (axes.get_xlim(), axes.get_ylim()[0]) == ((0, 2), 0)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("solver step", "y")


def test_bars_count_every_image() -> None:
    moves = (Moves(name="1 to 4", steps={3: 3, 7: 1}), Moves(name="4 to 16", steps={}))

    def draw(figure: Any) -> None:
        move_histogram(figure, moves, 10, 5)

    rows = figure_of(draw).axes
    assert [bar.get_height() for bar in rows[0].patches] == [0, 0, 0, 3, 0, 0, 0, 1, 0, 0]
    assert rows[0].get_title(loc="left") == "1 to 4 mediators: 4 of 5 images, mean step 4.0"
    assert rows[1].get_title(loc="left") == "4 to 16 mediators: none of 5 images"
    assert "step 3: 3 images" in tips(draw)


def test_many_steps_share_bars() -> None:
    for num_steps in (1, 59, 61, 250, 1000):
        moves = [Moves(name="m", steps=dict.fromkeys(range(num_steps), 1))]

        def draw(figure: Any, moves: Any = moves, num_steps: int = num_steps) -> None:
            move_histogram(figure, moves, num_steps, num_steps)

        bars = figure_of(draw).axes[0].patches
        assert len(bars) <= MOST_BARS
        assert sum(bar.get_height() for bar in bars) == num_steps


def test_a_map_has_the_first_layer_on_top_and_cells_up_to_their_neighbours() -> None:
    values = [[0.0, 0.1], [0.2, 0.4]]
    figure = figure_of(lambda figure: heat_map(figure.subplots(), values, [0.0, 0.5], label="nats", highest=0.5))
    axes, bar = figure.axes
    (mesh,) = axes.collections
    assert mesh.get_array().tolist() == values
    assert np.unique(mesh.get_coordinates()[..., 0]).tolist() == [0, 0.25, 1]
    assert axes.get_ylim() == (1.5, -0.5)
    assert mesh.get_clim() == (0, 0.5)
    assert bar.get_ylabel() == "nats"


@pytest.mark.parametrize("num_layers", [1, 4, 28, 100])
def test_maps_of_any_depth_name_few_layers(num_layers: int) -> None:
    values = np.full((num_layers, 1), 0.1)
    figure = figure_of(lambda figure: heat_map(figure.subplots(), values, [0.0], label="l", below=True))
    ticks = figure.axes[0].get_yticks()
    assert ticks[0] == 0
    assert len(ticks) <= 14
    drawn = svg(lambda figure: heat_map(figure.subplots(), values, [0.0], label="l"), height=240, description="d")
    assert len(drawn) < 40_000


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3)])
def test_a_grid_of_pictures_names_each_row_and_column_at_its_middle(shape: tuple[int, ...]) -> None:
    images = [[np.full(shape, 10 * row + column, np.uint8) for column in range(3)] for row in range(2)]
    rows, columns = ["dense\n250 calls", "4 mediators"], ["a", "b", "ankle boot"]
    axes = figure_of(lambda figure: picture_grid(figure.subplots(), images, rows, columns)).axes[0]
    pixels = np.asarray(axes.images[0].get_array())
    assert [label.get_text() for label in axes.get_xticklabels()] == columns
    assert [label.get_text() for label in axes.get_yticklabels()] == rows
    for row, y in enumerate(axes.get_yticks()):
        for column, x in enumerate(axes.get_xticks()):
            assert np.all(pixels[round(y), round(x)] == 10 * row + column)
