"""The fuzz command finds no fault."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the fuzz command runs its inputs in forks"),
    pytest.mark.slow,
]


def found_no_fault(*words: object) -> None:
    command = [sys.executable, "-m", "tests.fuzz", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_undamaged_inputs_are_taken() -> None:
    found_no_fault("--inputs", 0)


def test_many_damaged_inputs_are_refused_as_they_should_be() -> None:
    found_no_fault("--inputs", 1000, "--seed", 0)
