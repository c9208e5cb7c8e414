"""Training under SIGKILL: it goes on from the last saved state, and nothing shows that it was ever stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import medcli
from tests.cli import kill_training
from tests.unit.training.runs import last_state


def lines_of(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_sec"} for line in lines]


def trained(folder: Path, *, kills: int) -> list[list[int]]:
    paths = [str(Path(medcli.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    script = [sys.executable, kill_training.__file__, str(folder), str(kills), "7"]
    result = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize("kills", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_killed_again_and_again_it_ends_with_the_bits_of_a_whole_run(tmp_path: Path, kills: int) -> None:
    moments = trained(tmp_path / "killed", kills=kills)
    trained(tmp_path / "whole", kills=0)
    assert len(moments) == kills
    # A kill between a line and the state due at it is in time to lose the steps since the state before.
    assert all(logged - saved <= kill_training.SAVE_EVERY for logged, saved in moments)
    assert moments[-1][1] > 0  # between kills it got somewhere
    killed, whole = (last_state(tmp_path / folder) for folder in ("killed", "whole"))
    assert killed.name == f"state-{kill_training.STEPS:08d}.safetensors"
    assert killed.read_bytes() == whole.read_bytes()
    assert lines_of(tmp_path / "killed") == lines_of(tmp_path / "whole")
    assert [line["step"] for line in lines_of(tmp_path / "killed")] == list(range(1, kill_training.STEPS + 1))
    files = [sorted(path.name for path in (tmp_path / folder).iterdir()) for folder in ("killed", "whole")]
    assert files[0] == files[1]
