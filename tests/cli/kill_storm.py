"""Kill every command that writes, at random moments, then run it to its end: nothing is lost, nothing left behind.

    python kill_storm.py KILLS SEED

In the current folder, which holds the inputs of `test_kill_storm.py`. Each command runs once undisturbed in `whole`,
then in `killed`: forks of one warm process, killed after a random share of the time the undisturbed run took. Prints a
JSON object: for each command the kills, its last exit status, and the paths that differ from the undisturbed run.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch  # loaded before forking: it takes seconds

import medcli.workflows.analyze.run
import medcli.workflows.convert
import medcli.workflows.fid.run
import medcli.workflows.finetune.run
import medcli.workflows.latents
import medcli.workflows.report.run
import medcli.workflows.sample.run
import medcli.workflows.tune.run  # noqa: F401  the same
from medcli.cli.app import main

PIX, DEVICE = "../pix.safetensors", ("--device", "cpu")
TRAIN = ("--steps", "6", "--save-every", "1", "--log-every", "1", "--global-batch-size", "4", "--preview-every", "0")
COMMANDS: dict[str, tuple[str, ...]] = {
    "convert": ("convert", "../big.safetensors", "--layers", "none", "-o", "c.safetensors", "-f"),
    "diffusers": ("convert", "../dit.safetensors", "--layers", "none", "--to", "diffusers", "-o", "folder", "-f"),
    "sample": ("sample", PIX, *DEVICE, "--steps", "4", "--num-images", "40", "-o", "s", "--npz"),
    "latents": ("latents", "../photos", "--vae", "../vae", "--res", "32", "--shard-size", "2", *DEVICE, "-o", "l"),
    "finetune": ("finetune", PIX, "--data", "digits", *TRAIN, *DEVICE, "-o", "run"),
    "fid": ("fid", "../s", "digits", "--metrics", "fid", "--cache-dir", "cache"),
    "reference": ("fid", "../s", "--write-reference", "r.npz", "--extractor", "digits", "-f", "--cache-dir", "other"),
    "analyze": ("analyze", PIX, "--num-images", "4", "--steps", "6", *DEVICE, "-o", "a", "-f"),
    "report": ("report", "../s", "-o", "r.html", "-f"),
    "tune": ("tune", PIX, "--calls", "4", "--num-images", "4", "--fit", *DEVICE, "-o", "t"),
}
VOLATILE = {"manifest.json", "images.jsonl", "config.json", "metrics.jsonl", "report.json", "tuning.json", "plan.json"}
"""Names of files that hold times or an order of arrival: they must exist and be whole JSON."""


def started(arguments: tuple[str, ...], folder: Path) -> int:
    """Start a command in a fork; return its process id."""
    if child := os.fork():
        return child
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open("../log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), 2)
    code = 1
    try:
        code = int(main([*arguments, "-q"]))
    finally:
        os._exit(code)


def status_of(child: int) -> int:
    """Wait for a fork; return its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def contents(folder: Path) -> dict[str, str]:
    """Return the hash of each file, by its path; volatile ones are only checked to be JSON."""
    return {str(path.relative_to(folder)): _content(path) for path in folder.rglob("*") if not path.is_dir()}


def _content(path: Path) -> str:
    if path.name in VOLATILE or path.suffix == ".html" or path.parent.name in ("a", "t", "runs"):
        if path.suffix in (".json", ".jsonl"):
            for text in [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines():
                json.loads(text)
        return f"{path.stat().st_mode:o}"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main_loop(kills: int, seed: int) -> dict[str, dict[str, object]]:
    """Run all commands; see the module."""
    chance, found = random.Random(seed), dict[str, dict[str, object]]()
    whole, killed = Path("whole"), Path("killed")
    for folder in (whole, killed):
        folder.mkdir()
    for number, (name, arguments) in enumerate(COMMANDS.items()):
        start = time.monotonic()
        code = status_of(started(arguments, whole))
        seconds = time.monotonic() - start
        assert code == 0, f"{name} ended with {code} undisturbed"
        own, num_killed = kills // len(COMMANDS) + (number < kills % len(COMMANDS)), 0
        for _ in range(10 * own):
            if num_killed == own:
                break
            child = started(arguments, killed)
            time.sleep(chance.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
            num_killed += status_of(child) == -signal.SIGKILL
        code = status_of(started(arguments, killed))
        wanted, there = contents(whole), contents(killed)
        differing = sorted(path for path in {*wanted, *there} if wanted.get(path) != there.get(path))
        found[name] = {"kills": num_killed, "code": code, "differing": differing}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(main_loop(int(sys.argv[1]), int(sys.argv[2]))))
