"""Train in forks of one warm process and kill each with SIGKILL; the last one is left to finish.

    python kill_training.py FOLDER KILLS SEED

A fork is killed once the log has grown by a few lines, or after a random moment if it is to die before that: moments
follow the work done, not the clock, so a busy machine changes nothing.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from tests.cli.kill_often import has_ended
from tests.unit.training.runs import run

STEPS = 40
SAVE_EVERY = 4


def logged(folder: Path) -> int:
    """Steps of the last whole line of the log."""
    log = folder / "metrics.jsonl"
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


def forked(folder: Path) -> int:
    """Start training; the number of its process."""
    if child := os.fork():
        return child
    code = 1
    try:
        run(folder, steps=STEPS, save_every=SAVE_EVERY, log_every=1)
        code = 0
    finally:
        os._exit(code)


def main(folder: Path, kills: int, chance: random.Random) -> int:
    """Kill so often, then let it finish. Writes, one line a kill, how far it was and how far it had been saved."""
    for _ in range(kills):
        before = logged(folder)
        goal = before + chance.choice((0, 1, 2, 3, 5, 8))
        child = forked(folder)
        # A run that goes on takes back lines first, so the goal is met on the way up again or from the start.
        while logged(folder) < goal and not has_ended(child):
            time.sleep(0.0005)
        time.sleep(chance.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(f"the run ended by itself after step {logged(folder)}: give it more to do")
        saved = max((int(path.stem.split("-")[1]) for path in folder.glob("state-*.safetensors")), default=0)
        print(json.dumps([logged(folder), saved]))
    _, status = os.waitpid(forked(folder), 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))))
