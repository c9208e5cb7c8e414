"""Help is quick: it loads neither torch nor numpy, in a fresh interpreter and for every command."""

from __future__ import annotations

import subprocess
import sys

import pytest

from medcli.cli.app import COMMANDS

HEAVY = ("torch", "numpy", "PIL", "safetensors", "accelerate", "diffusers", "fvcore", "torch_fidelity", "matplotlib")

PROGRAM = """
import sys
from medcli.cli.app import main
code = main(sys.argv[2:])
loaded = [name for name in sys.argv[1].split(",") if name in sys.modules]
sys.exit(f"loaded {loaded}" if loaded else code)
"""


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)], ids=lambda words: " ".join(words))
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    command = [sys.executable, "-c", PROGRAM, ",".join(HEAVY), *words, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage:" in done.stdout


def test_importing_the_package_loads_nothing_heavy_and_prints_nothing() -> None:
    program = f"import sys, medcli; sys.exit(str([n for n in {HEAVY} if n in sys.modules] or '') or 0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("command", ["convert", "inspect"])
def test_commands_that_run_no_network_import_no_torch(command: str) -> None:
    code = f"import sys, medcli.workflows.{command}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
