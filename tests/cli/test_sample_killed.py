"""`medcli sample` under SIGKILL: it goes on where it was, and no file shows that it was ever stopped."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import medcli
from tests.cli import kill_often
from tests.unit.engine.tiny import RHO, save

COMMAND = (
    *("sample", "tiny.safetensors", "--device", "cpu", "--steps", "6", "--warmup-steps", "1", "--batch-size", "3"),
    *("--schedule", "dynamic", "--rho", ",".join(map(str, RHO)), "--npz", "-q"),
)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize(("kills", "num_images"), [(2, 30), pytest.param(20, 500, marks=pytest.mark.slow)])
def test_killed_again_and_again_it_writes_the_same_files(empty_folder: Path, kills: int, num_images: int) -> None:
    save(empty_folder / "tiny.safetensors")
    run_with_kills(Path("killed"), kills, num_images)
    run_with_kills(Path("whole"), 0, num_images)
    contents = {folder: contents_of(Path(folder)) for folder in ("killed", "whole")}
    assert contents["killed"] == contents["whole"]
    assert len(contents["whole"]) == num_images + 4
    lines = {folder: lines_of(Path(folder)) for folder in ("killed", "whole")}
    assert lines["killed"] == lines["whole"]
    assert len(lines["whole"]) == num_images


def run_with_kills(folder: Path, kills: int, num_images: int) -> None:
    paths = [str(Path(medcli.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    script = [sys.executable, kill_often.__file__, str(folder), str(kills), "5", "--"]
    command = [*script, *COMMAND, "--num-images", str(num_images), "-o", str(folder)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def contents_of(folder: Path) -> dict[str, str]:
    """Hash of each file; the manifest (times) and the lines (order) may differ and only count as there."""
    differing = ("manifest.json", "images.jsonl")
    return {
        file.name: "" if file.name in differing else hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.iterdir()
    }


def lines_of(folder: Path) -> dict[int, str]:
    lines = (folder / "images.jsonl").read_text().splitlines()
    assert len({json.loads(line)["index"] for line in lines}) == len(lines)
    return {json.loads(line)["index"]: line for line in lines}
