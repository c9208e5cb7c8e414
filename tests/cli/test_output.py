"""Streams, modes and tables, on streams that only claim to be terminals."""

from __future__ import annotations

import io
import json
import os
import pty
from typing import Any

import pytest

from medcli.cli.output import Output, printable
from medcli.cli.progress import LOG_EVERY_SECS, Pace, duration
from medcli.cli.table import details_of, table_of

LONG_PATH = "/data/[run1]/" + "x" * 300 + "/[/bold]:smile:.pt"


class Stream(io.StringIO):
    """Text in memory that says whether it is a terminal."""

    def __init__(self, *, is_terminal: bool = False) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Values:
    """A report of given values."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def to_json(self) -> dict[str, Any]:
        return self.values


def streams(*, is_terminal: bool = False) -> tuple[Stream, Stream]:
    return Stream(is_terminal=is_terminal), Stream(is_terminal=is_terminal)


def test_data_is_shown_as_it_is_and_unwrapped_off_a_terminal() -> None:
    out, err = streams()
    output = Output(out, err)
    output.note(LONG_PATH)
    output.result(Values(output=LONG_PATH), table_of(["file"], [[LONG_PATH]]))
    assert err.getvalue() == LONG_PATH + "\n"
    assert LONG_PATH in out.getvalue()
    assert "\x1b" not in out.getvalue() + err.getvalue()


def test_brackets_and_colons_in_a_table_or_text_of_a_command_are_not_markup() -> None:
    for shown in (details_of({"output": LONG_PATH}), f"wrote {LONG_PATH}"):
        out, err = streams()
        Output(out, err).result(Values(), shown)
        assert LONG_PATH in out.getvalue()


def test_without_a_table_the_values_are_listed_by_name() -> None:
    out, err = streams()
    Output(out, err).result(Values(output="a.pt", mediators=[4, 16], hint_text=None, layers=[]))
    assert [line.split("  ")[0] for line in out.getvalue().splitlines()] == [
        "output",
        "mediators",
        "hint text",
        "layers",
    ]
    assert [line.split()[-1] for line in out.getvalue().splitlines()] == ["a.pt", "16", "-", "-"]


def test_json_is_one_object_whatever_the_table_and_the_names_in_it() -> None:
    out, err = streams()
    values = {"output": LONG_PATH, "gmacs": 118.6, "rows": [{"a": None}], "odd": "é\udcff"}
    Output(out, err, as_json=True).result(Values(**values), table_of(["x"], []))
    assert json.loads(out.getvalue()) == values
    assert err.getvalue() == ""


def test_json_refuses_a_number_that_json_cannot_say() -> None:
    with pytest.raises(ValueError, match="JSON"):
        Output(*streams(), as_json=True).result(Values(fid=float("nan")))


def test_numbers_go_right_and_missing_values_show_as_a_dash() -> None:
    out, err = streams()
    Output(out, err).result(
        Values(),
        table_of(["model", "GMACs"], [["a", 1.5], ["bbbb", None], ["c", "1,025.5"]], caption="1 MAC = 2 FLOPs"),
    )
    lines = out.getvalue().splitlines()
    assert lines[0].split() == ["model", "GMACs"]
    assert [line[-9:] for line in lines[2:5]] == ["      1.5", "        -", "  1,025.5"]
    assert lines[-1] == "1 MAC = 2 FLOPs"


def test_a_remark_under_a_narrow_table_is_not_broken() -> None:
    out, err = streams()
    Output(out, err).result(Values(), table_of(["a"], [[1]], caption=f"samples: {LONG_PATH}\nsecond remark"))
    assert out.getvalue().splitlines()[-2:] == [f"samples: {LONG_PATH}", "second remark"]


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour_where_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    coloured, plain = Stream(is_terminal=True), Stream(is_terminal=True)
    Output(Stream(), coloured).error("no good", "do better")
    monkeypatch.setenv(name, value)
    Output(Stream(), plain).error("no good", "do better")
    assert "\x1b[" in coloured.getvalue()
    assert plain.getvalue() == "error: no good\nhint: do better\n"


@pytest.mark.parametrize(
    ("variables", "is_coloured"),
    [
        ({"TERM": "xterm-256color"}, True),
        ({"TERM": "xterm"}, True),
        ({"TERM": "linux"}, True),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, True),
        ({"TERM": "dumb"}, False),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, False),
    ],
)
def test_warnings_are_yellow_and_errors_red_on_a_real_terminal(
    variables: dict[str, str], is_coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    leader, follower = pty.openpty()
    with open(follower, "w", encoding="utf-8") as stream:
        output = Output(Stream(), stream)
        output.progress(1, 1, "images")
        output.note("plain")
        output.warn("hot")
        output.error("no good")
        seen = b""
        while b"no good" not in seen:
            seen += os.read(leader, 1024)
    os.close(leader)
    drawn = seen.decode()
    lines = drawn[drawn.index("plain") :].replace("\r", "").splitlines()
    if is_coloured:
        assert lines == ["plain", "\x1b[33mwarning: \x1b[0mhot", "\x1b[1;31merror: \x1b[0mno good"]
    else:
        assert lines == ["plain", "warning: hot", "error: no good"]


def test_force_color_does_not_put_escape_codes_into_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    out, err = streams()
    output = Output(out, err)
    output.progress(1, 3, "images")
    output.error("no good")
    output.result(Values(a=1))
    assert "\x1b" not in out.getvalue() + err.getvalue()


def test_off_a_terminal_progress_is_a_line_now_and_then_with_rate_and_time_left() -> None:
    out, err = streams()
    clock = Clock()
    output = Output(out, err, clock=clock)
    for done in range(40, 101, 10):
        output.progress(done, 100, "images")
        clock.now += LOG_EVERY_SECS / 2
    assert err.getvalue().splitlines() == [
        "60/100 images, 20 s left, 2.0 images/s",
        "80/100 images, 10 s left, 2.0 images/s",
        "100/100 images, 0 s left, 2.0 images/s",
    ]
    assert out.getvalue() == ""


def test_on_a_terminal_the_bar_vanishes_and_never_reaches_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    out, err = streams(is_terminal=True)
    with Output(out, err) as output:
        output.progress(1, 3, "[images]")
        output.note("in between")
    drawn = err.getvalue()
    assert "1/3" in drawn
    assert "[images]" in drawn
    assert "in between" in drawn
    assert drawn.rstrip().endswith("\x1b[2K"), "the last thing written erases the bar's line"
    assert drawn.count("\x1b[?25l") == drawn.count("\x1b[?25h") == 1, "the cursor comes back"
    assert out.getvalue() == ""


def test_quiet_shows_no_progress_notes_hints_or_warnings_but_errors() -> None:
    out, err = streams()
    clock = Clock()
    output = Output(out, err, quiet=True, clock=clock)
    output.progress(0, 9, "images")
    clock.now += 1000
    output.progress(3, 9, "images")
    output.note("note")
    output.hint("hint")
    output.warn("slow")
    assert err.getvalue() == ""
    output.error("no good")
    assert err.getvalue() == "error: no good\n"


def test_the_pace_of_a_continued_run_counts_only_what_was_done_now() -> None:
    clock = Clock()
    pace = Pace(90, 100, "steps", clock)
    assert pace.describe(90) == ""
    clock.now += 20
    assert pace.describe(95) == "20 s left, 4.0 s per step"
    assert pace.describe(95, "loss 0.31, 7 images/s") == "20 s left, loss 0.31, 7 images/s"


@pytest.mark.parametrize(
    ("secs", "words"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (185, "3 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7800, "2 h 10 min"),
        (786_120, "9 d 2 h"),
    ],
)
def test_durations_are_written_in_words(secs: float, words: str) -> None:
    assert duration(secs) == words


def test_what_could_move_the_cursor_is_escaped() -> None:
    assert printable("a\r\x1b[2J\udcffé") == "a\\r\\x1b[2J\\udcffé"
