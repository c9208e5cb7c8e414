"""Drawings of characters: a map in 256 colours, a histogram."""

from __future__ import annotations

import re

import numpy as np
import pytest
from rich.console import Console

from medcli.cli.drawings import BARS, SHADES, HeatMap, histogram


def shown(drawing: HeatMap, width: int, colours: str | None) -> list[str]:
    console = Console(width=width, force_terminal=bool(colours), color_system=colours)  # type: ignore[arg-type]
    with console.capture() as capture:
        console.print(drawing, soft_wrap=True)
    return capture.get().rstrip("\n").split("\n")


@pytest.mark.parametrize("width", [60, 80, 160])
@pytest.mark.parametrize(("num_rows", "num_columns"), [(28, 20), (3, 250), (12, 1), (4, 24)])
def test_a_heat_map_fits_the_terminal_and_needs_no_colour(num_rows: int, num_columns: int, width: int) -> None:
    rows = (100 * np.random.default_rng(0).random((num_rows, num_columns))).tolist()
    lines = shown(HeatMap(rows, [f"layer {place}" for place in range(num_rows)], ("0 noise", "1 image")), width, None)
    assert len(lines) == num_rows + 1
    assert lines[0].split() == ["0", "noise", "1", "image"]
    assert max(map(len, lines)) <= max(width, 24)
    assert "\x1b" not in "".join(lines)
    figures = [int(word) for word in lines[1].split()[2:]]
    if num_columns <= (width - 9) // 3:
        assert figures == [min(99, round(value)) for value in rows[0]]
    assert np.mean(figures) == pytest.approx(np.mean(rows[0]), abs=6)


def lightness(number: int) -> float:
    """Relative luminance of a colour of xterm's 6 x 6 x 6 cube."""
    levels = (0, 95, 135, 175, 215, 255)
    place = number - 16
    red, green, blue = ((levels[one] / 255) ** 2.2 for one in (place // 36, place // 6 % 6, place % 6))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("colours", ["256", "truecolor"])
def test_a_heat_map_has_the_same_colours_on_every_terminal_and_rises_in_lightness(colours: str) -> None:
    row = [100 * (place + 0.5) / len(SHADES) for place in range(len(SHADES))]
    line = shown(HeatMap([row], ["layer 0"], ("", "")), 80, colours)[1]
    pairs = [(int(ink), int(shade)) for ink, shade in re.findall(r"\x1b\[38;5;(\d+);48;5;(\d+)m", line)]
    assert tuple(shade for _, shade in pairs) == SHADES
    shades = [lightness(shade) for _, shade in pairs]
    assert shades == sorted(shades)
    for ink, shade in pairs:
        low, high = sorted((lightness(ink), lightness(shade)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, "figures are legible: WCAG AA"


def test_sixteen_colours_are_too_few_for_a_map() -> None:
    assert "\x1b[" not in "".join(shown(HeatMap([[1.0, 50.0]], ["layer 0"], ("", "")), 80, "standard"))


def test_a_histogram_shows_a_single_image_and_the_highest_bar() -> None:
    drawn = histogram([0] * 100 + [249], 250)
    assert len(drawn) == 34
    assert drawn[1] != " "
    assert drawn[-2] != " "
    assert set(drawn[2:-2]) == {" "}
    assert drawn[1] in (BARS[-1], "#")
