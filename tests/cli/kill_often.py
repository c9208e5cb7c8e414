"""Run `medcli` in forks of one warm process and kill each with SIGKILL; the last one is left to finish.

    python kill_often.py FOLDER KILLS SEED -- medcli arguments

A fork is killed once it has finished a few more images, or after a random moment if it is to die before the first:
moments follow the work done, not the clock, so a busy machine changes nothing.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch  # noqa: F401  loaded before forking: it takes seconds

import medcli.workflows.sample.run  # noqa: F401  the same
from medcli.cli.app import main


def finished(folder: Path) -> int:
    """Lines of `images.jsonl`."""
    lines = folder / "images.jsonl"
    return lines.read_bytes().count(b"\n") if lines.exists() else 0


def has_ended(child: int) -> bool:
    """Whether the fork is no more, without forgetting it."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def forked(arguments: list[str]) -> int:
    """Start the command; the number of its process."""
    if child := os.fork():
        return child
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    code = 1
    try:
        code = int(main(arguments))
    finally:
        os._exit(code)


def run(folder: Path, kills: int, arguments: list[str], chance: random.Random) -> int:
    """Kill so often, then let it finish; its exit status."""
    for _ in range(kills):
        goal = finished(folder) + chance.choice((0, 1, 1, 2, 3, 5))
        child = forked(arguments)
        while finished(folder) < goal and not has_ended(child):
            time.sleep(0.0005)
        time.sleep(chance.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(f"the command ended by itself, with {finished(folder)} images: give it more to do")
    _, status = os.waitpid(forked(arguments), 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    where, number, seed, _, *rest = sys.argv[1:]
    sys.exit(run(Path(where), int(number), rest, random.Random(int(seed))))
