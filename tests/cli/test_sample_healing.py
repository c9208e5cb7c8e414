"""`medcli sample` again in a folder that a power cut, a full disk or a hand has damaged."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from medcli.errors import ExitCode
from tests.conftest import RunCli
from tests.unit.engine.tiny import save

NUM = 6
COMMAND = ("sample", "tiny.safetensors", "--device", "cpu", "--steps", "4", "--num-images", str(NUM), "-o", "out")
SCHEDULES = {
    "full": ("--schedule", "full"),
    "static": ("--schedule", "static", "--mediators", "4"),
    "dynamic": ("--schedule", "dynamic", "--rho", "0.98,0.9", "--warmup-steps", "1"),
    "timed": ("--schedule", "timed", "--at", "0.3,0.6", "--sampler", "ode", "--solver", "adams3"),
    "dopri5": ("--sampler", "ode", "--solver", "dopri5", "--schedule", "full"),
    "random": ("--label-sampling", "random", "--schedule", "full", "--cfg-interval", "0.2,0.8"),
}


def contents(names: str = "*.png") -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(Path("out").glob(names))}


@pytest.fixture
def filled(run_cli: RunCli, empty_folder: Path) -> Path:
    save(empty_folder / "tiny.safetensors")
    assert run_cli(*COMMAND, *SCHEDULES["dynamic"], "--npz").code == 0
    return empty_folder / "out"


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_lost_manifest_is_written_again_and_nothing_is_generated(
    run_cli: RunCli, empty_folder: Path, schedule: str
) -> None:
    save(empty_folder / "tiny.safetensors")
    command = (*COMMAND, *SCHEDULES[schedule])
    assert run_cli(*command).code == 0
    before, times = contents(), {path: path.stat().st_mtime_ns for path in Path("out").glob("0*.png")}
    wanted = json.loads(Path("out/manifest.json").read_text())
    for damage in (b"", b"{", b"\xff", b"[]", b'{"settings": 1}', None):
        if damage is None:
            Path("out/manifest.json").unlink()
        else:
            Path("out/manifest.json").write_bytes(damage)
        result = run_cli(*command)
        assert result.code == 0, result.err
        assert ("written again" in result.err) == (damage is not None)
        found = json.loads(Path("out/manifest.json").read_text())
        for key in ("settings", "num_images", "resolution_px", "run"):
            assert found[key] == wanted[key]
    assert contents() == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_damaged_manifest_of_another_run_is_refused(run_cli: RunCli, filled: Path) -> None:
    (filled / "manifest.json").write_bytes(b"")
    result = run_cli(*COMMAND, "--schedule", "full")
    assert result.code == ExitCode.DATA
    assert "choose another --output, or remove that folder" in result.err


@pytest.mark.parametrize("schedule", ["static", "dopri5", "timed"])
@pytest.mark.parametrize(
    "change", [("--seed", "1"), ("--cfg-scale", "2.5"), "weights"], ids=["seed", "scale", "weights"]
)
def test_images_of_another_run_are_not_adopted_when_the_manifest_is_lost(
    run_cli: RunCli, empty_folder: Path, schedule: str, change: tuple[str, ...] | str
) -> None:
    save(empty_folder / "tiny.safetensors")
    command = (*COMMAND, *SCHEDULES[schedule], "--cfg-scale", "1.5", "--label-sampling", "equal")
    assert run_cli(*command).code == 0
    Path("out/manifest.json").unlink()
    before = contents()
    if change == "weights":
        Path("tiny.safetensors").unlink()
        save(empty_folder / "tiny.safetensors", seed=1)
        change = ()
    result = run_cli(*command, *change)
    assert result.code == ExitCode.USAGE, result.err
    assert "its images are not those of this command" in result.err
    assert contents() == before
    assert not Path("out/manifest.json").exists()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def full_folder(path: Path) -> None:
    folder(path)
    (path / "thesis.tex").touch()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [empty, cut, zeros, folder, full_folder, pipe, Path.unlink])
def test_a_picture_that_is_not_whole_is_generated_again(
    run_cli: RunCli, filled: Path, damage: Callable[[Path], None]
) -> None:
    before, archive = contents(), contents("*.npz")
    damage(filled / "000002.png")
    damage(filled / "grid.png") if damage in (empty, cut, zeros) else None
    result = run_cli(*COMMAND, *SCHEDULES["dynamic"], "--json")
    assert result.code == 0, result.err
    assert contents("0*[0-9].png") == {name: found for name, found in before.items() if name != "grid.png"}
    assert contents("grid.png")["grid.png"] == before["grid.png"]
    assert contents("*.npz") == archive
    assert damage is not full_folder or list(filled.glob("000002.png.*/thesis.tex"))
    lines = [json.loads(line)["index"] for line in (filled / "images.jsonl").read_text().splitlines()]
    assert sorted(lines) == list(range(NUM))


@pytest.mark.parametrize("damage", [empty, cut, zeros])
def test_an_archive_that_is_not_whole_is_written_again(
    run_cli: RunCli, filled: Path, damage: Callable[[Path], None]
) -> None:
    before = contents("*.npz")
    damage(filled / "samples.npz")
    assert run_cli(*COMMAND, *SCHEDULES["dynamic"], "--npz").code == 0
    assert contents("*.npz") == before


def test_a_picture_damaged_inside_is_named_and_the_hint_heals(run_cli: RunCli, filled: Path) -> None:
    before, picture = contents(), filled / "000002.png"
    content = bytearray(picture.read_bytes())
    content[len(content) // 2] ^= 0xFF
    picture.write_bytes(content)
    (filled / "samples.npz").unlink()
    result = run_cli(*COMMAND, *SCHEDULES["dynamic"], "--npz")
    assert result.code == ExitCode.DATA
    assert "000002.png" in result.err
    assert "remove it" in result.err
    picture.unlink()
    assert run_cli(*COMMAND, *SCHEDULES["dynamic"], "--npz").code == 0
    assert contents() == before


HOSTILE = [
    *("null", "[]", "{}", "[" * 5000, '"x"', "NaN", "1e999", "\udcff"),
    '{"index": 1e3, "label": 0, "file": "000001.png", "switch_steps": [], "gmacs": 1}',
    '{"index": 1000000000000, "label": 0, "file": "1000000000000.png", "switch_steps": [], "gmacs": 1}',
    '{"index": 2, "label": 2, "file": "000002.png", "switch_steps": [1, 2, 3, 3, 3, 3], "gmacs": 1}',
    '{"index": 2, "label": 2, "file": "000002.png", "switch_steps": [99999], "gmacs": 1}',
    '{"index": 2, "label": 7, "file": "000002.png", "switch_steps": [], "gmacs": 1e300}',
    '{"index": 2, "label": "2", "file": ["000002.png"], "switch_steps": {"a": 1}, "gmacs": true}',
    "x" * 3_000_000,
]


@pytest.mark.parametrize("line", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_lines_are_dropped_and_their_images_generated_again(run_cli: RunCli, filled: Path, line: str) -> None:
    before, lines = contents(), (filled / "images.jsonl").read_text().splitlines(keepends=True)
    others = [each for each in lines if json.loads(each)["index"] != 2]
    for text in (line, line + "\n", line + "\n" + "".join(others)):
        (filled / "images.jsonl").write_text(text, errors="surrogateescape")
        result = run_cli(*COMMAND, *SCHEDULES["dynamic"])
        assert result.code == 0, result.err
        assert contents() == before
        assert sorted((filled / "images.jsonl").read_text().splitlines(keepends=True)) == sorted(lines)
    shutil.rmtree(filled)
