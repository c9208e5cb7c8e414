"""Fill one sample folder by several processes on a file system that breaks promises, and count what they do.

    python docs/scripts/shared_folder.py MODE PROCESSES [--ranks] [--pause S] -- sample --num-images 400 ...

MODE is `good`; `stale`: appends go to the end of the file that the process last saw, as on NFS; `enolck`: every lock
fails; `idle`: every lock succeeds. `--ranks` sets the variables that torchrun sets. `--pause` waits before each
batch, in place of a GPU. It runs the medcli that PYTHONPATH names, so that two checkouts can be compared.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from threading import Lock
from typing import Any

STALE_S = 3.0


def count_and_break(mode: str, pause: float, counts: Counter[str]) -> None:
    """Replace the calls of this process that are counted or broken."""
    lockf, replace, real_open, real_write = fcntl.lockf, os.replace, os.open, os.write
    ends: dict[int, list[float]] = {}
    turn = Lock()  # pictures are written by several threads

    def locked(*args: Any) -> None:
        counts["locks"] += 1
        if mode == "enolck":
            raise OSError(errno.ENOLCK, "no locks")
        if mode != "idle":
            lockf(*args)

    def renamed(source: Any, target: Any) -> None:
        with turn:
            counts["made"] += Path(target).stem.isdecimal()
        replace(source, target)

    def opened(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        appends = bool(flags & os.O_APPEND)
        file = real_open(path, flags & ~os.O_APPEND if appends else flags, *args, **kwargs)
        ends.pop(file, None)
        if appends:
            ends[file] = [os.fstat(file).st_size, time.monotonic()]
        return file

    def written(file: int, content: Any) -> int:
        if file not in ends:
            return real_write(file, content)
        with turn:
            return appended(file, content)

    def appended(file: int, content: Any) -> int:
        end = ends[file]
        if time.monotonic() - end[1] > STALE_S:
            end[:] = [max(end[0], os.fstat(file).st_size), time.monotonic()]
        end[0] += os.pwrite(file, content, int(end[0]))
        return len(content)

    fcntl.lockf, os.replace = locked, renamed  # type: ignore[assignment]
    if mode == "stale":
        os.open, os.write = opened, written
    from medcli.engine import generate

    pick = vars(generate)["pick_batch"]

    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(pause)
        return pick(*args, **kwargs)

    vars(generate)["pick_batch"] = slow


def one_process(mode: str, pause: float, words: list[str]) -> int:
    """Run medcli in this process; print its counts as the last line of stderr."""
    counts: Counter[str] = Counter()
    count_and_break(mode, pause, counts)
    from medcli.cli.app import main

    code = main(words)
    print(json.dumps({"code": code, **counts}), file=sys.stderr)
    return code


def main() -> None:
    """Start the processes and print one line on all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("good", "stale", "enolck", "idle"))
    parser.add_argument("processes", type=int)
    parser.add_argument("--ranks", action="store_true")
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    own, words = sys.argv[1:], []
    if "--" in own:
        place = own.index("--")
        own, words = own[:place], own[place + 1 :]
    args = parser.parse_args(own)
    if args.child:
        sys.exit(one_process(args.mode, args.pause, words))
    command = [sys.executable, __file__, args.mode, "1", "--pause", str(args.pause), "--child", "--", *words]
    launch = [{"RANK": str(rank), "WORLD_SIZE": str(args.processes)} for rank in range(args.processes)]
    start = time.monotonic()
    children = [
        subprocess.Popen(
            command,
            env={**os.environ, **(ranks if args.ranks else {})},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for ranks in launch
    ]
    lines = [child.communicate()[1].strip().splitlines() for child in children]
    found = [json.loads(each[-1]) for each in lines]
    for each in lines:
        for line in each[:-1]:
            if line.startswith("error"):
                print(line)
    made = [one.get("made", 0) for one in found]
    num_locks = sum(one.get("locks", 0) for one in found)
    print(f"made {sum(made)} ({min(made)} to {max(made)} a process), {num_locks} lock calls")
    print(f"exit codes {[one['code'] for one in found]}, {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
