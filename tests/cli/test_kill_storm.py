"""100 SIGKILLs over all commands that write: nothing is lost, and nothing is left behind after the rerun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import medcli
from medcli.config import ModelConfig
from tests.cli import kill_storm
from tests.conftest import RunCli
from tests.unit.data.test_autoencoder import save_tiny_autoencoder
from tests.unit.data.tiny_data import save_classes
from tests.unit.engine.tiny import PIXELS, save, with_ladder

DIT = ModelConfig(
    family="dit", hidden_size=32, depth=2, num_heads=2, patch_size=2, latent_size=8, in_channels=4, num_classes=3,
    learn_sigma=True, mediators=(), mediator_layers=(), autoencoder=None, latent_scale=1.0, latent_downsample=8,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize("kills", [100])
def test_every_command_that_writes_survives_kills(run_cli: RunCli, empty_folder: Path, kills: int) -> None:
    save(Path("pix.safetensors"))
    save(Path("big.safetensors"), replace(with_ladder(PIXELS), hidden_size=256, depth=6))
    save(Path("dit.safetensors"), DIT)
    save_tiny_autoencoder(Path("vae"))
    save_classes(Path("photos"), {"cat": 6, "dog": 4}, (40, 50))
    assert (
        run_cli("sample", "pix.safetensors", "--steps", "3", "--num-images", "80", "-o", "s", "--device", "cpu").code
        == 0
    )
    paths = [str(Path(medcli.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    script = [sys.executable, kill_storm.__file__, str(kills), "7"]
    result = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert sum(each["kills"] for each in found.values()) == kills
    assert {name: (each["code"], each["differing"]) for name, each in found.items()} == dict.fromkeys(found, (0, []))
    assert not [path for path in Path().rglob(".*") if path.is_file()]
