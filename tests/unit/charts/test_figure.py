from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import fromstring

import matplotlib
import pytest
from PIL import Image

from medcli.charts.figure import SERIES, STYLE, save_png, svg

STYLESHEET = Path(__file__).parents[3] / "medcli" / "pages" / "templates" / "style.css"
HOSTILE = "'\"><script>$\\frac$&\u202e\n"


def line(figure: Any) -> None:
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], gid=f"tip: {HOSTILE}", label=HOSTILE)
    axes.set(xlabel=HOSTILE, title="名")
    axes.legend()


def parsed(drawn: str) -> Any:
    return fromstring(str(drawn).replace("<svg ", '<svg xmlns:xlink="x" ', 1))


def test_an_svg_is_an_element_that_scales_and_describes_itself() -> None:
    root = parsed(svg(line, height=200, description=HOSTILE))
    assert root.get("viewBox") == "0 0 396 200"
    assert root.get("role") == "img"
    assert root.get("aria-label") == "'\"><script>$\\frac$&\\u202e\\n"
    assert root.get("width") is None


def test_text_of_an_svg_is_text_and_escaped() -> None:
    drawn = svg(line, height=200, description="d")
    assert "<script" not in drawn
    assert "<style" not in drawn
    words = ["".join(one.itertext()) for one in parsed(drawn).iter("text")]
    assert any("$\\frac$" in one for one in words)
    assert "名" in words
    assert [one.text for one in parsed(drawn).iter("title")] == [HOSTILE]


def test_colours_of_the_palette_follow_the_page() -> None:
    drawn = svg(line, height=200, description="d")
    assert f"stroke: {SERIES[0]}" not in drawn
    variables = set(re.findall(r"var\((--\w+)\)", drawn))
    assert {"--s0", "--ink", "--quiet", "--rule"} <= variables
    assert all(STYLESHEET.read_text().count(f"{name}: #") == 2 for name in variables)  # light and dark


def test_identifiers_differ_between_charts() -> None:
    found = [re.findall(r'\bid="([^"]*)"', svg(line, height=200, description=name)) for name in "ab"]
    assert found[0]
    assert not set(found[0]) & set(found[1])
    assert len(set(found[0])) == len(found[0])


def test_the_same_chart_gives_the_same_bytes_whatever_the_users_style_is(tmp_path: Path) -> None:
    drawn = svg(line, height=200, description="d")
    save_png(tmp_path / "a.png", line, title="t")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.hashsalt": "x", "axes.grid": False}):
        mine = dict(matplotlib.rcParams)
        assert svg(line, height=200, description="d") == drawn
        save_png(tmp_path / "b.png", line, title="t")
        assert dict(matplotlib.rcParams) == mine
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_png_has_its_title_above_its_legend(tmp_path: Path) -> None:
    found = []

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], label="line")
        figure.legend(loc="outside upper left")
        found.append(figure)

    save_png(tmp_path / "a.png", draw, title="t")
    (figure,) = found
    assert figure.get_suptitle() == ""
    assert figure.legends[0].get_title().get_text() == "t"


def test_a_png_has_its_title_its_size_and_no_metadata(tmp_path: Path) -> None:
    found = []

    def draw(figure: Any) -> None:
        found.append(figure)
        figure.subplots()

    save_png(tmp_path / "a.png", draw, title="$x\n", size=(3, 2))
    assert found[0].get_suptitle() == "$x\\n"
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (360, 240)
        assert not getattr(image, "text", None)


def test_a_failed_chart_leaves_no_file_and_no_style(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)

    def draw(figure: Any) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        save_png(tmp_path / "a.png", draw, title="t")
    assert dict(matplotlib.rcParams) == before
    assert not list(tmp_path.iterdir())
    assert STYLE["svg.fonttype"] == "none"
