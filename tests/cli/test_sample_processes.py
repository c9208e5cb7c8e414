"""`medcli sample` under a launcher: two processes, one folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import medcli
from medcli.engine.image_records import Record
from medcli.engine.sample_folder import SampleFolder
from medcli.errors import ExitCode
from medcli.runtime import locks, shared_work
from tests.conftest import RunCli
from tests.unit.engine.test_sample_folder import picture
from tests.unit.engine.tiny import RHO, save

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no file locks on this system"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]
NUM_IMAGES = 40
COMMAND = (
    *("sample", "tiny.safetensors", "--device", "cpu", "--steps", "40", "--warmup-steps", "1", "--batch-size", "4"),
    *("--schedule", "dynamic", "--rho", ",".join(map(str, RHO)), "--num-images", str(NUM_IMAGES), "--npz", "--json"),
)
MULTISTEP = (
    *("sample", "tiny.safetensors", "--device", "cpu", "--sampler", "ode", "--solver", "adams3", "--steps", "40"),
    *("--schedule", "timed", "--mediators", "1,4,full", "--at", "0.3,0.6", "--cfg-scale", "2", "--batch-size", "4"),
    *("--cfg-interval", "0.3,1", "--num-images", str(NUM_IMAGES), "--npz", "--json"),
)
LAUNCHERS = {
    "torchrun": ("torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
    # What it does where there are several GPUs; with --cpu it starts one process, unless there is MPI.
    "accelerate": ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
}


def environment(**more: str) -> dict[str, str]:
    """Where subprocesses find this medcli, whatever folder they run in."""
    paths = [str(Path(medcli.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths)), **more}


def launched(launcher: str, folder: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", *LAUNCHERS[launcher], "-m", "medcli", *COMMAND, "-o", folder]
    return subprocess.run(words, env=environment(), capture_output=True, text=True)


def contents_of(folder: Path) -> dict[str, str]:
    files = (file for file in folder.iterdir() if file.name not in ("manifest.json", "images.jsonl"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def lines_of(folder: Path) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in (folder / "images.jsonl").read_text().splitlines())
    return sorted(lines, key=lambda line: int(line["index"]))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_two_processes_make_what_one_makes_bit_for_bit(run_cli: RunCli, empty_folder: Path, launcher: str) -> None:
    save(empty_folder / "tiny.safetensors")
    result = launched(launcher, "two")
    assert result.returncode == 0, result.stderr
    alone = run_cli(*COMMAND, "-o", "one")
    assert contents_of(Path("two")) == contents_of(Path("one"))
    assert lines_of(Path("two")) == lines_of(Path("one"))
    assert len(lines_of(Path("two"))) == NUM_IMAGES
    # One process speaks for both.
    one, two = json.loads(alone.out), json.loads(result.stdout)
    for key in ("num_images", "nfe", "gmacs_per_image", "gmacs_done_per_image", "gmacs_dense", "switch_steps_mean"):
        assert two[key] == one[key]
    manifests = [json.loads((Path(name) / "manifest.json").read_text()) for name in ("one", "two")]
    assert manifests[0]["settings"] == manifests[1]["settings"]
    assert manifests[1]["totals"]["seconds"] > 0
    assert sorted(session["images"] for session in manifests[1]["sessions"]) == [NUM_IMAGES // 2] * 2


@pytest.mark.slow
@pytest.mark.parametrize("command", [COMMAND, MULTISTEP], ids=["dynamic", "multistep"])
def test_a_lost_process_leaves_only_its_unfinished_images_to_the_others(
    run_cli: RunCli, empty_folder: Path, command: tuple[str, ...]
) -> None:
    save(empty_folder / "tiny.safetensors")
    Path("lost").mkdir()
    words = [sys.executable, "-m", "medcli", *command, "-o", "lost"]
    ranks = [
        subprocess.Popen(words, env=environment(RANK=rank, WORLD_SIZE="2"), stdout=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]
    lines = Path("lost/images.jsonl")
    while not (lines.exists() and lines.stat().st_size and list(Path("lost/.processes").glob("*.jsonl"))):
        assert ranks[0].poll() is None
        time.sleep(0.001)
    ranks[1].kill()
    assert ranks[1].communicate()[0] == ""
    report = json.loads(ranks[0].communicate()[0])
    assert report["num_images"] == NUM_IMAGES
    run_cli(*command, "-o", "one")
    assert contents_of(Path("lost")) == contents_of(Path("one"))
    assert lines_of(Path("lost")) == lines_of(Path("one"))


def test_where_there_are_no_locks_one_process_and_ranks_work(
    run_cli: RunCli, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*args: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(locks.fcntl, "lockf", no_locks)
    monkeypatch.setattr(shared_work, "LATE_S", 0.0)
    save(empty_folder / "tiny.safetensors")
    assert run_cli(*COMMAND, "-o", "one", "--num-images", "3").code == 0
    assert len(lines_of(Path("one"))) == 3
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_PROCID", "0")
    result = run_cli(*COMMAND, "-o", "two", "--num-images", "3")
    assert result.code == ExitCode.ENVIRONMENT  # the other process never came
    assert "1 images of two are missing" in result.err
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert run_cli(*COMMAND, "-o", "two", "--num-images", "3").code == 0
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert json.loads(run_cli(*COMMAND, "-o", "two", "--num-images", "3").out)["num_images"] == 3
    assert lines_of(Path("two")) == lines_of(Path("one"))
    assert contents_of(Path("two")) == contents_of(Path("one"))


def test_shards_from_0_or_from_1_make_the_folder_of_one_process(run_cli: RunCli, empty_folder: Path) -> None:
    save(empty_folder / "tiny.safetensors")
    command = (*COMMAND, "--num-images", "6")
    made = [json.loads(run_cli(*command, "-o", "parts", "--shard", f"{shard}/3").out) for shard in (1, 2, 3)]
    assert [report["num_images"] for report in made] == [2, 4, 6]
    run_cli(*command, "-o", "one")
    assert contents_of(Path("parts")) == contents_of(Path("one"))
    assert lines_of(Path("parts")) == lines_of(Path("one"))
    manifest = json.loads((Path("parts") / "manifest.json").read_text())
    assert sorted(session["images"] for session in manifest["sessions"]) == [2, 2, 2]
    assert run_cli(*command, "-o", "from-0", "--shard", "0/3").code == 0
    assert {path.name for path in Path("from-0").glob("0*.png")} == {"000000.png", "000003.png"}
    for text in ("4/3", "1/0", "-1/3", "1", "a/b", "1/2/3"):
        assert run_cli(*command, "-o", "no", "--shard", text).code == ExitCode.USAGE


@contextmanager
def forked(action: Callable[[], bool]) -> Iterator[int]:
    """A process that exits with 0 if the action says yes; whatever happens here, it does not stay behind."""
    if not (child := os.fork()):
        try:
            os._exit(0 if action() else 1)
        finally:
            os._exit(2)
    try:
        yield child
    finally:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_what_another_process_works_on_is_left_to_it_until_it_dies(tmp_path: Path) -> None:
    ready, done = os.pipe()

    def make_two_and_begin_a_third() -> bool:
        with SampleFolder(tmp_path) as other:
            other.work.share()
            claims = iter(other.work.claims(8))
            for index in (next(claims) for _ in range(3)):
                if index < 2:
                    record = Record(index=index, label=0, file=f"{index:06d}.png", switch_steps=(), gmacs=1.0)
                    other.add(record, picture(index))
            os.write(done, b".")
            time.sleep(600)
        return True

    with SampleFolder(tmp_path) as folder:
        folder.work.share()
        with forked(make_two_and_begin_a_third):
            os.read(ready, 1)
            # 0 and 1 are finished, 2 is being made.
            assert list(folder.work.claims(8)) == [3, 4, 5, 6, 7]
            folder.read_on()
            assert [folder.is_done(index) for index in range(4)] == [True, True, False, False]
        folder.work.wait_until_alone()
        assert folder.work.is_alone
        assert list(folder.work.claims(8)) == [2, 3, 4, 5, 6, 7]


def test_images_made_together_are_claimed_together(tmp_path: Path) -> None:
    def claim() -> bool:
        with SampleFolder(tmp_path) as other:
            claims = iter(other.work.claims(12, group_size=4))
            taken = [next(claims) for _ in range(5)]
            os.write(done, b"y" if taken == [0, 1, 2, 3, 4] else b"n")
            time.sleep(600)
        return True

    ready, done = os.pipe()
    with SampleFolder(tmp_path) as folder:
        folder.work.share()
        with forked(claim):
            assert os.read(ready, 1) == b"y"
            # 0 to 3 and 4 to 7 are the other's, though it has begun with one of the second group only.
            assert list(folder.work.claims(12, group_size=4)) == [8, 9, 10, 11]


@pytest.mark.slow
def test_one_process_where_several_were_asked_for_says_so(run_cli: RunCli, empty_folder: Path) -> None:
    save(empty_folder / "tiny.safetensors")
    launch = ("accelerate.commands.launch", "--cpu", "--num_processes", "2")
    words = [sys.executable, "-m", *launch, "-m", "medcli", *COMMAND, "-o", "cpu"]
    result = subprocess.run(words, env=environment(), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "torchrun starts several" in result.stderr
    run_cli(*COMMAND, "-o", "one")
    assert contents_of(Path("cpu")) == contents_of(Path("one"))
