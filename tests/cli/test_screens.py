"""Screens of every command at four widths, on terminals and piped: nothing is wider, no number and no word is cut.

Each command runs once; its result is drawn at every width.
"""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medcli.cli import app
from medcli.cli.output import Output
from medcli.cli.text import LONG_WORD, WHOLE
from medcli.data.assets import FOLDER as ASSETS
from medcli.presets import DEFAULT_BUNDLE
from tests.cli.test_fid import sample_folder
from tests.conftest import RunCli
from tests.unit.engine.tiny import save

WIDTHS = (60, 80, 100, 160)
TINY = ("--num-images", "3", "--steps", "8")
TRAIN = ("--data", "digits", "--steps", "2", "--global-batch-size", "4", "--preview-every", "0")
QUICK = {
    "convert": ("convert", "m.safetensors", "--layers", "0", "-o", "converted.safetensors"),
    "inspect": ("inspect", "m.safetensors"),
    "flops": ("flops", "SiT-S/2", "--res", "256,1024", "--rho", "0.3,0.1"),
    "sample": ("sample", "m.safetensors", *TINY, "--schedule", "dynamic", "--rho", "0.9,0.8"),
    "merge": ("merge", "samples/m-dynamic-0"),
    "fid": ("fid", "scored"),
    "fid --compare": ("fid", "--compare", "scored", "other"),
    "finetune --dry-run": ("finetune", "m.safetensors", *TRAIN, "--dry-run"),
    "finetune": ("finetune", "m.safetensors", *TRAIN, "-o", "run"),
    "analyze": ("analyze", "m.safetensors", *TINY, "--points", "8"),
    "report": ("report", "samples/m-dynamic-0", "scored/scores.json"),
    "doctor": ("doctor",),
}
SLOW = {
    "bench": ("bench", "m.safetensors", "--repeats", "1", "--batch-size", "2", "--threads", "1"),
    "tune": ("tune", "m.safetensors", "--saving", "97%", "--num-images", "4"),
    "demo": ("demo", "digits", "--num-images", "10"),
}
Drawn = Callable[..., list[str]]


class Terminal(io.StringIO):
    """Text in memory that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[Any, Any]]]:
    """What a command hands to `Output.result`, run once in a folder shared by all."""
    folder, found, last = tmp_path_factory.mktemp("screens"), {}, []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(Output, "result", lambda _, report, table=None: last.append((report, table)))
        save(folder / "m.safetensors")
        for name in ("scored", "other"):
            sample_folder(folder / name, 12)

        def of(name: str) -> tuple[Any, Any]:
            if name not in found:
                assert app.main([*({**QUICK, **SLOW}[name])]) == 0
                found[name] = last.pop()
            return found[name]

        yield of


def drawn(result: tuple[Any, Any], width: int, stream: io.StringIO, patch: pytest.MonkeyPatch) -> list[str]:
    patch.setenv("COLUMNS", str(width))
    patch.setenv("TERM", "xterm-256color")
    Output(stream, io.StringIO()).result(*result)
    return re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue()).splitlines()


def words_of(lines: list[str]) -> set[str]:
    """Words without rules; of words that may be broken after a slash, the parts."""
    words = [word for line in lines for word in line.split() if not set(word) <= set("─-|▁▂▃▄▅▆▇█")]
    return {part for word in words for part in (re.split(r"(?<=/)", word) if "/" in word else [word])}


def check(name: str, results: Callable[[str], tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    result = results(name)
    monkeypatch.undo()
    lines = drawn(result, 10_000, io.StringIO(), monkeypatch)
    assert not any("site-packages" in line or str(ASSETS) in line for line in lines if name != "doctor")
    everything = words_of(lines)
    for width in WIDTHS:
        for stream in (Terminal(), io.StringIO()):
            lines = drawn(result, width, stream, monkeypatch)
            for line in lines:
                fits = len(line) <= width or WHOLE.match(line) or max(map(len, line.split())) > LONG_WORD
                assert fits, f"{len(line)} of {width} columns: {line}"
            assert words_of(lines) <= everything, "every word and number is whole"


@pytest.mark.parametrize("name", QUICK)
def test_a_result_fits_every_width_with_its_words_whole(
    name: str, results: Callable[[str], tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(name, results, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_result_of_a_long_run_fits_every_width_with_its_words_whole(
    name: str, results: Callable[[str], tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(name, results, monkeypatch)


@pytest.mark.parametrize("name", app.COMMANDS)
def test_help_fits_every_width_and_shouts_no_types(name: str, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    for width in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(width))
        result = run_cli(name, "--help-all")
        assert "<bool>" not in result.out
        assert "<str>" not in result.out
        assert not re.search(r"\d{12}|RANGE", result.out)
        words = set(re.split(r"[\s│|]+", result.out))
        for made in app.load_command(name).settings.values():
            assert words >= {word for word in made.choices if len(word) <= 20}, "no choice is cut"
        examples = [line for line in result.out.splitlines() if line.startswith("   medcli ")]
        assert all(len(line) <= width for line in result.out.splitlines() if line not in examples)


def test_a_real_terminal_and_a_real_pipe_get_the_same_lines(tmp_path: Path) -> None:
    """Through a pseudo-terminal 80 columns wide, in a process of its own; a pipe has 80 columns by default."""
    words = [sys.executable, "-m", "medcli", "inspect", DEFAULT_BUNDLE]
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR")}
    environment["TERM"] = "xterm-256color"
    piped = subprocess.run(words, capture_output=True, text=True, env=environment, check=True).stdout
    leader, follower = pty.openpty()
    subprocess.run(["stty", "cols", "80"], stdin=follower, check=True)
    with subprocess.Popen(words, stdin=follower, stdout=follower, stderr=follower, env=environment) as process:
        os.close(follower)
        seen = b""
        while True:
            try:
                part = os.read(leader, 65536)
            except OSError:  # Linux's end of a pseudo-terminal
                break
            if not part:
                break
            seen += part
        assert process.wait() == 0
    os.close(leader)
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", seen.decode()).replace("\r\n", "\n")
    assert "\x1b[2m" in seen.decode(), "names are dim on a terminal"
    assert shown == piped
    assert max(map(len, piped.splitlines())) <= 80
