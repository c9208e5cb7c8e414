"""Kill every writing command again and again, then let it finish: nothing may be lost and nothing left behind.

    python -m tests.fuzz.kills --kills 100 --seed 0 [--only COMMAND]

Each command runs in forks of one warm process that get SIGKILL after a random part of the time a whole run takes. The
last fork finishes. Its folder must then hold the files of a run that was never killed: the same names, and the same
bytes but for JSON, HTML and logs, which hold times. Exits 6 if a folder differs.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from random import Random

import torch

from medcli.cli.app import main as program
from tests.fuzz.readers import Words
from tests.fuzz.samples import ANALYZE, LATENTS, REFERENCE, SAMPLE, SCORE, TRAIN, TUNE, make_good_inputs

PRODUCTS = ("samp", "run", "store", "t", "a", "ref.npz", "dit", "scores.json")
"""What the commands below write, removed from the good inputs first."""
COMMANDS: dict[str, Words] = {
    "convert": ("convert", "pix.safetensors", "--mediators", "4", "-o", "o.safetensors", "-f", "-q"),
    "official": ("convert", "lat.safetensors", "--layers", "none", "--to", "official", "-o", "o.pt", "-f", "-q"),
    "sample": (*SAMPLE, "--npz"),
    "finetune": TRAIN,
    "latents": LATENTS,
    "analyze": ANALYZE,
    "tune": TUNE,
    "fid": SCORE,
    "reference": REFERENCE,
    "report": ("report", "samples", "-o", "r.html", "-f", "-q"),
}
TIMED = (".json", ".jsonl", ".html")
"""Endings of files that hold times."""


def start(words: Words, folder: Path) -> int:
    """Start a command in a fork; the number of its process."""
    if child := os.fork():
        return child
    code = 1
    try:
        os.chdir(folder)
        for stream in (1, 2):
            os.dup2(os.open(folder.parent / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        os.environ["MEDCLI_CACHE"] = str(folder / "cache")
        sys.argv = ["medcli", *words]
        code = int(program(list(words)))
    finally:
        os._exit(code)


def run_to_the_end(words: Words, folder: Path) -> float:
    """Run a command; seconds taken.

    Raises:
        AssertionError: If it does not succeed.
    """
    begun = time.monotonic()
    _, status = os.waitpid(start(words, folder), 0)
    assert os.waitstatus_to_exitcode(status) == 0, (folder.parent / "said").read_text()
    return time.monotonic() - begun


def contents(folder: Path) -> dict[str, str]:
    """Hash of each file by name; files with times and locks only count as there."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: "" if path.suffix in TIMED else hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in found.items()
    }


def differences(name: str, words: Words, good: Path, scratch: Path, kills: int, chance: Random) -> list[str]:
    """Kill a command so often, finish it, and compare with a run that was never killed."""
    for place in ("whole", "killed"):
        shutil.rmtree(scratch / place, ignore_errors=True)
        shutil.copytree(good, scratch / place)
    seconds = run_to_the_end(words, scratch / "whole")
    for _ in range(kills):
        child = start(words, scratch / "killed")
        time.sleep(chance.uniform(0, 1.1 * seconds))
        os.kill(child, signal.SIGKILL)  # of no effect if it has ended
        os.waitpid(child, 0)
    try:
        run_to_the_end(words, scratch / "killed")
    except AssertionError as err:
        return [f"{name} does not go on: {err}"]
    whole, killed = contents(scratch / "whole"), contents(scratch / "killed")
    found = [f"{name}: {file} is missing" for file in whole.keys() - killed.keys()]
    found += [f"{name}: {file} is left behind" for file in killed.keys() - whole.keys()]
    return sorted(found + [f"{name}: {file} differs" for file in whole if killed.get(file, whole[file]) != whole[file]])


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="over all commands")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=COMMANDS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    names = [given.only] if given.only else list(COMMANDS)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        scratch = Path(folder)
        os.environ["MEDCLI_CACHE"] = str(scratch / "cache")
        good = scratch / "good"
        good.mkdir()
        os.chdir(good)
        with redirect_stdout(io.StringIO()):
            make_good_inputs(good, lambda words: int(program(list(words))))
        (good / "samp").rename(good / "samples")
        for product in PRODUCTS:
            path = good / product
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        os.chdir(scratch)
        for name in names:
            chance = Random(f"{given.seed}/{name}")
            found = differences(name, COMMANDS[name], good, scratch, -(-given.kills // len(names)), chance)
            print("\n".join(found or [f"{name}: the files of a whole run"]), flush=True)
            wrong += found
    return 6 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
