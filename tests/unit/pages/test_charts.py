from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree.ElementTree import Element, fromstring

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from medcli.pages.axes import LEFT, RIGHT, across, short, upwards, widened
from medcli.pages.curves import Curve, curves
from medcli.pages.heatmap import heat_map
from medcli.pages.histogram import MOST_BARS, Moves, histogram
from medcli.pages.scatter import Point, Series, scatter, shortened
from medcli.pages.svg import WIDTH, element

INNER = WIDTH - LEFT - RIGHT


def elements(drawn: Markup, tag: str, class_: str = "") -> list[Element]:
    return [one for one in fromstring(str(drawn)).iter(tag) if class_ in one.get("class", "").split() or not class_]


def places(drawn: Markup, class_: str) -> list[tuple[float, float]]:
    (line,) = elements(drawn, "polyline", class_)
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.get("points", "").split())]


@given(st.floats(-1e12, 1e12), st.floats(0, 1e12))
def test_ticks_are_few_round_and_inside(low: float, span: float) -> None:
    scale = across(*widened([low, low + span]))
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 12 or span < 1e-9 * abs(low)
    assert all(scale.low - 1e-9 * abs(low) <= tick <= scale.high + 1e-9 * abs(low) for tick in ticks)


def test_ticks_of_a_plain_range() -> None:
    assert across(0, 50).ticks() == [0, 10, 20, 30, 40, 50]
    assert across(0.9, 1.1).ticks() == pytest.approx([0.9, 0.95, 1.0, 1.05, 1.1])


def test_scales_run_to_the_right_and_upwards() -> None:
    assert (across(2, 4).at(2), across(2, 4).at(4)) == (LEFT, WIDTH - RIGHT)
    assert upwards(0, 1, 200).at(1) < upwards(0, 1, 200).at(0)


def test_numbers_are_short() -> None:
    assert [short(value) for value in (0.0, 50.0, 1234.0, 0.0312345, 1e7)] == ["0", "50", "1,234", "0.0312", "1e+07"]


def test_attributes_and_text_are_escaped_where_they_are_written() -> None:
    drawn = curves([Curve(name="<b>&", values=(1.0,))], names=("<i>", '"'), says='"><script>')
    assert "<script" not in drawn
    assert "<b>" not in drawn
    assert fromstring(str(drawn)).get("aria-label") == '"><script>'
    assert element("text", text="a\u202eb\n").text == "a\\u202eb\\n"


def test_a_curve_holds_for_a_whole_step() -> None:
    drawn = curves([Curve(name="x", values=(1.0, 3.0))], names=("a", "b"), says="c")
    corners = places(drawn, "line")
    assert [x for x, _ in corners] == pytest.approx([LEFT, LEFT + INNER / 2, LEFT + INNER / 2, LEFT + INNER], abs=0.01)
    assert corners[0][1] == corners[1][1] > corners[2][1] == corners[3][1]


def test_bars_are_as_high_as_their_counts_and_hold_every_image() -> None:
    moves = (Moves(name="1 to 4", steps=(3, 3, 3, 7)), Moves(name="4 to 16", steps=()))
    bars = elements(histogram(moves, 10, 5), "rect")
    assert [bar[0].text for bar in bars] == ["step 3: 3 images", "step 7: 1 images"]
    assert float(bars[0].get("height", "")) == pytest.approx(3 * float(bars[1].get("height", "")), abs=0.02)
    assert float(bars[0].get("x", "")) == pytest.approx(LEFT + 0.3 * INNER, abs=0.01)


def test_many_steps_share_bars() -> None:
    bars = elements(histogram([Moves(name="m", steps=tuple(range(1000)))], 1000, 1000), "rect")
    assert len(bars) <= MOST_BARS
    counts = [int(str(bar[0].text).rsplit(":", 1)[1].split()[0]) for bar in bars]
    assert sum(counts) == 1000


def test_a_map_has_a_cell_for_every_value_darkest_where_it_is_least() -> None:
    drawn = heat_map([[0.0, 0.1], [0.2, 0.4]], [0.0, 0.5], highest=0.4, says="s")
    cells = [cell for cell in elements(drawn, "rect") if len(cell)]
    assert [cell.get("fill") for cell in cells] == ["#00204d", "#3d4e6c", "#7c7b78", "#ffe945"]
    assert cells[1][0].text == "layer 0, progress 0.50: 0.1"
    # A step's cell reaches half-way to its neighbours, and to the ends of the way.
    assert float(cells[1].get("x", "")) == pytest.approx(LEFT + 0.25 * INNER, abs=0.01)


@pytest.mark.parametrize("num_layers", [1, 4, 28, 100])
def test_maps_of_any_depth_name_few_layers(num_layers: int) -> None:
    drawn = heat_map([[0.1]] * num_layers, [0.0], highest=0.1, says="s")
    named = [one for one in elements(drawn, "text", "end") if re.fullmatch(r"\d+", str(one.text))]
    assert named[0].text == "0"
    heights = [float(one.get("y", "")) for one in named]
    assert all(below - above >= 13 for above, below in pairwise(heights))


def test_error_bars_reach_as_far_as_the_error() -> None:
    point = Point(x=1.0, y=10.0, name="p", error=2.0)
    other = Point(x=2.0, y=12.0, name="q")
    drawn = scatter([Series(name="s", points=(point, other))], names=("a", "b"), says="c")
    ys = [y for _, y in places(drawn, "bar")]
    tops = {mark[0].text: float(mark.get("cy", "")) for mark in elements(drawn, "circle")}
    assert min(ys) == pytest.approx(tops["q: 2, 12"], abs=0.02)
    assert max(ys) - min(ys) == pytest.approx(2 * (tops["p: 1, 10 ± 2"] - tops["q: 2, 12"]), abs=0.05)


def test_names_stand_beside_their_points_and_not_on_each_other() -> None:
    points = [Point(x=1 + step / 1000, y=1.0, name=f"configuration {step}", has_label=True) for step in range(4)]
    points.append(Point(x=10.0, y=2.0, name="far"))
    drawn = scatter([Series(name="s", points=tuple(points))], names=("a", "b"), says="c")
    labels = [one for one in elements(drawn, "text") if str(one.text).startswith("configuration")]
    assert len({one.get("y") for one in labels}) == 4  # they lie above each other
    assert len(shortened("x" * 100)) < 40


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, 1e-300, -1e99, 1e99])
def test_one_point_makes_a_chart(value: float) -> None:
    drawn = scatter([Series(name="s", points=(Point(x=value, y=value, name="p"),))], names=("a", "b"), says="c")
    (mark,) = elements(drawn, "circle")
    assert all(math.isfinite(float(mark.get(key, "nan"))) for key in ("cx", "cy"))
