"""Training by several processes: what two do with half the batch each is what one does with all of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import medcli
from medcli.errors import ConfigError
from medcli.training.distributed import Distributed
from tests.cli import train_tiny
from tests.unit.training.runs import last_state, run

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ACCELERATE = ("accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1") + (
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
)
SETTINGS = {"steps": 6, "log_every": 1, "global_batch_size": 16}


def words(launcher: tuple[str, ...], folder: Path, settings: dict[str, Any]) -> list[str]:
    return [sys.executable, "-m", *launcher, train_tiny.__file__, str(folder), json.dumps(settings)]


def environment() -> dict[str, str]:
    paths = [str(Path(medcli.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def launched(folder: Path, **settings: Any) -> list[dict[str, Any]]:
    """Train in two processes; what each of them says."""
    result = subprocess.run(words(TORCHRUN, folder, settings), env=environment(), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "UserWarning" not in result.stderr
    return said(folder)


def said(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(folder.with_name(f"{folder.name}-{rank}.json").read_text()) for rank in (0, 1)]


def assert_same_course(one: Path, two: Path) -> None:
    """Losses agree to 2e-6, the last digit of the log and rounding; tensors to a thousandth of a step of lr 0.01.

    A bias of the keys shifts all scores of a query alike, which a softmax ignores: its gradient is rounding and nothing
    else, and AdamW makes whole steps of it. Its moments are compared, its value is not.
    """
    logs = [[json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (one, two)]
    assert [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]]
    for a, b in zip(*logs, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], abs=2e-6)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], abs=1e-5)
    states = [load_file(last_state(folder)) for folder in (one, two)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        other = states[1][name]
        if name.startswith(("model.", "ema.")) and name.endswith("attn.qkv.bias"):
            value, other = (torch.cat([each.chunk(3)[0], each.chunk(3)[2]]) for each in (value, other))
        is_memory = name.startswith("exp_avg")
        close = {"rtol": 1e-4, "atol": 1e-7 if is_memory else 1e-5}
        torch.testing.assert_close(other, value, **close, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, id="sandwich", marks=pytest.mark.slow),
        pytest.param({"ladder_rule": "split", "micro_batch_size": 3}, id="split-accumulated"),
        pytest.param({"spoilt": 4}, id="a-bad-batch", marks=pytest.mark.slow),
    ],
)
def test_two_processes_take_the_course_of_one(tmp_path: Path, more: dict[str, Any]) -> None:
    first, second = launched(tmp_path / "two", **SETTINGS, **more)
    assert first["sums"] == second["sums"]  # every process ends with the same averages
    rule = more.get("ladder_rule", "sandwich")
    run(tmp_path / "one", **SETTINGS, ladder_rule=rule, skip_steps=(4,) if "spoilt" in more else ())
    assert_same_course(tmp_path / "one", tmp_path / "two")
    # One process speaks for both.
    assert len(first["notes"]) == (2 if "spoilt" in more else 0)
    assert second["notes"] == []


@pytest.mark.slow
def test_a_sharded_network_takes_the_same_course_and_goes_on_from_a_whole_ones_state(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        run(tmp_path / folder, **{**SETTINGS, "steps": 3})
    run(tmp_path / "one", **SETTINGS)
    told = launched(tmp_path / "two", fsdp=True, **SETTINGS)
    assert told[0]["sums"] == told[1]["sums"]
    assert_same_course(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_under_accelerate_launch_the_same_code_gives_the_same_bits(tmp_path: Path) -> None:
    command = words(ACCELERATE, tmp_path / "launched", SETTINGS)
    subprocess.run(command, env=environment(), capture_output=True, check=True)
    run(tmp_path / "plain", **SETTINGS)
    states = [last_state(tmp_path / folder).read_bytes() for folder in ("launched", "plain")]
    assert states[0] == states[1]


@pytest.mark.slow
def test_a_signal_to_the_launcher_stops_all_after_the_same_step_and_saves(tmp_path: Path) -> None:
    settings = {"steps": 100_000, "log_every": 1, "save_every": 100_000}
    command = words(TORCHRUN, tmp_path / "two", settings)
    launcher = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = tmp_path / "two/metrics.jsonl"
    while not log.exists() or log.read_bytes().count(b"\n") < 3:
        assert launcher.poll() is None
        time.sleep(0.01)
    launcher.send_signal(signal.SIGTERM)
    launcher.wait()
    stopped = int(last_state(tmp_path / "two").stem.split("-")[1])
    assert stopped >= 3
    first, second = said(tmp_path / "two")
    assert first == {
        "notes": [f"stopping after this step: it is saved in {tmp_path / 'two'}, and the same command resumes there"],
        "interrupted": True,
    }
    assert second == {"notes": [], "interrupted": True}
    run(tmp_path / "one", steps=stopped, log_every=1)
    assert_same_course(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_data_that_one_process_loses_stops_all_once_the_run_is_saved(tmp_path: Path) -> None:
    settings = {**SETTINGS, "save_every": 100}
    first, second = launched(tmp_path / "two", lost=5, **settings)
    assert first["error"] == second["error"]
    assert first["error"].endswith("the disk is gone")
    assert last_state(tmp_path / "two").name == "state-00000004.safetensors"
    run(tmp_path / "one", **{**settings, "steps": 4})
    assert_same_course(tmp_path / "one", tmp_path / "two")


def test_a_batch_that_the_processes_cannot_share_is_refused() -> None:
    distributed = object.__new__(Distributed)
    distributed.count, distributed.rank = 3, 1
    assert distributed.rows(12) == range(4, 8)
    for batch, instead in ((16, 15), (2, 3)):
        with pytest.raises(ConfigError, match=f"3 processes cannot share a batch of {batch} images") as caught:
            distributed.rows(batch)
        assert caught.value.hint == f"use --global-batch-size {instead}"
