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

KILLS = 20
NUM_IMAGES = 500
COMMAND = (
    *("sample", "tiny.safetensors", "--device", "cpu", "--steps", "6", "--warmup-steps", "1", "--batch-size", "3"),
    *("--schedule", "dynamic", "--rho", ",".join(map(str, RHO)), "--num-images", str(NUM_IMAGES), "--npz", "-q"),
)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_killed_twenty_times_it_makes_the_same_files(empty_folder: Path) -> None:
    save(empty_folder / "tiny.safetensors")
    killed_to_death(Path("killed"), kills=KILLS)
    killed_to_death(Path("whole"), kills=0)
    contents = {folder: contents_of(Path(folder)) for folder in ("killed", "whole")}
    assert contents["killed"] == contents["whole"]
    assert len(contents["whole"]) == NUM_IMAGES + 4
    lines = {folder: lines_of(Path(folder)) for folder in ("killed", "whole")}
    assert lines["killed"] == lines["whole"]
    assert len(lines["whole"]) == NUM_IMAGES


def killed_to_death(folder: Path, *, kills: int) -> None:
    paths = [str(Path(medcli.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    script = [sys.executable, kill_often.__file__, str(folder), str(kills), "5", "--"]
    result = subprocess.run([*script, *COMMAND, "-o", str(folder)], env=environment, capture_output=True, text=True)
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
