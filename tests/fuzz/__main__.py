"""Throw damaged inputs at every reader of the program and check how it refuses them.

    python -m tests.fuzz --inputs 2000 --seed 0 [--only READER] [--number N --keep FOLDER]

Each input is one damaged file, or a command line with nonsense in it, read in a fork of one warm process with limits on
address space and time. It must end without a traceback, crash or hang, with a peak below 1 GB, at most two lines on
stderr and an exit code of 0 or 2 to 6. Prints figures by reader and exits 6 on a fault. Input N of a reader is the same
for the same seed: --only READER --number N --keep FOLDER leaves it in FOLDER.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch

from medcli.cli.app import main as program
from tests.fuzz.mutators import folder_changed, replace_file
from tests.fuzz.readers import FLAG_LINES, READERS, Words, nonsense
from tests.fuzz.samples import make_good_inputs

FLAGS = "flags"
ALLOWED_CODES = (0, 2, 3, 4, 5, 6)
PEAK_MIB = 1000
SECONDS = 40
"""CPU time after which an input counts as a hang; the wall clock gets three times as much."""
ADDRESS_SPACE = 3 << 30
"""Bytes a fork may map beyond what the warm process has."""


@dataclass(frozen=True)
class Outcome:
    """How the program took one input."""

    code: int
    seconds: float
    peak_mib: float
    err: str

    def fault(self) -> str | None:
        """Return what is wrong, or None."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        last = lines[-1][:200] if lines else ""
        if self.code == -signal.SIGXCPU and " left" in last:  # a long run that reports its progress
            return None
        if self.code == -signal.SIGKILL or self.code == -signal.SIGXCPU:
            return f"hang: stopped after {self.seconds:.0f} s"
        if self.code < 0:
            return f"killed by {signal.Signals(-self.code).name}"
        if self.code == 1 or "Traceback" in self.err or "bug in medcli" in self.err:
            return f"bug: {' / '.join(lines[-3:])[-300:]}"
        if self.code not in ALLOWED_CODES:
            return f"exit code {self.code}: {last}"
        if len(lines) > 2 and self.code:
            return f"{len(lines)} lines on stderr: {' / '.join(lines)[:300]}"
        if self.code and not any(line.startswith("error: ") for line in lines):
            return f"exit code {self.code} without an error line: {last}"
        return f"peak of {self.peak_mib:.0f} MiB" if self.peak_mib > PEAK_MIB else None


@dataclass
class Tally:
    """Figures of one reader."""

    inputs: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    peak_mib: float = 0
    slowest: float = 0
    faults: list[str] = field(default_factory=list)


def run_forked(words: Words, folder: Path) -> Outcome:
    """Run one command in a fork with limits; what it wrote and took."""
    begun = time.monotonic()
    errors = folder / ".stderr"
    child = os.fork()
    if not child:
        code = 1
        try:
            os.chdir(folder)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
            mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE,) * 2)
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
            os.environ["MEDCLI_CACHE"] = str(folder / ".cache")
            sys.argv = ["medcli", *words]
            code = int(program(list(words)))
        finally:
            os._exit(code)
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() - begun > 3 * SECONDS:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    err = errors.read_text(errors="replace") if errors.exists() else ""
    return Outcome(os.waitstatus_to_exitcode(status), time.monotonic() - begun, usage.ru_maxrss / 1024, err)


def damage(reader: str, number: int, seed: int, folder: Path) -> Words:
    """Damage one input of a reader in a folder of good ones, and choose the command that reads it."""
    chance = Random(f"{seed}/{reader}/{number}")
    if reader == FLAGS:
        return nonsense(chance)
    chosen = READERS[reader]
    words = chance.choice(chosen.commands)
    if chosen.folders and chance.random() < 0.5:
        folder_changed(folder / chance.choice(chosen.folders), chance)
        return words
    files = sorted({path for pattern in chosen.files for path in folder.glob(pattern) if path.is_file()})
    if files:
        path = chance.choice(files)
        if chance.random() < 0.05:
            replace_file(path, chance)
        else:
            path.write_bytes(chosen.mutator(path.read_bytes(), chance))
    # Without --quiet, refusals must be as short, whatever was remarked before.
    return tuple(word for word in words if word != "-q") if chance.random() < 0.3 else words


def check_good(good: Path, scratch: Path, names: list[str]) -> dict[str, Tally]:
    """Run every command on undamaged inputs: what is refused then is a fault."""
    tallies = {name: Tally() for name in names}
    for name in names:
        for words in FLAG_LINES if name == FLAGS else READERS[name].commands:
            folder = scratch / "input"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(good, folder)
            outcome = run_forked(words, folder)
            record(tallies[name], f"{name}, undamaged: {' '.join(words)}", outcome)
            if outcome.code and not outcome.fault():
                tallies[name].faults.append(outcome.err)
                print(f"FAULT {' '.join(words)!r} on undamaged inputs\n      {outcome.err!r}", flush=True)
    return tallies


def fuzz(
    inputs: int, seed: int, only: str | None = None, number: int | None = None, keep: Path | None = None
) -> dict[str, Tally]:
    """Make good inputs once, then damage and run; figures by reader. No inputs: undamaged ones."""
    names = [only] if only else [*READERS, FLAGS]
    tallies = {name: Tally() for name in names}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        good = Path(scratch) / "good"
        os.environ["MEDCLI_CACHE"] = str(good / ".cache")
        good.mkdir()
        os.chdir(good)
        with redirect_stdout(io.StringIO()):
            make_good_inputs(good, lambda words: int(program(list(words))))
        os.chdir(scratch)
        if not inputs:
            return check_good(good, Path(scratch), names)
        numbers = [number] if number is not None else range(-(-inputs // len(names)))
        for index in numbers:
            for name in names:
                folder = keep or Path(scratch) / "input"
                shutil.rmtree(folder, ignore_errors=True)
                shutil.copytree(good, folder)
                words = damage(name, index, seed, folder)
                record(tallies[name], f"{name} #{index}: {' '.join(words)}", run_forked(words, folder))
    return tallies


def record(tally: Tally, title: str, outcome: Outcome) -> None:
    """Add one outcome to the figures; print what is wrong at once."""
    tally.inputs += 1
    tally.codes[outcome.code] += 1
    tally.peak_mib = max(tally.peak_mib, outcome.peak_mib)
    tally.slowest = max(tally.slowest, outcome.seconds)
    if fault := outcome.fault():
        tally.faults.append(fault)
        print(f"FAULT {title[:300]!r}\n      {fault!r}", flush=True)


def show(tallies: dict[str, Tally], seconds: float) -> int:
    """Print the figures; 6 if there were faults."""
    print(f"{'reader':22}{'inputs':>7}{'taken':>7}{'refused':>8}{'faults':>7}{'peak MiB':>9}{'slowest':>9}")
    for name, one in tallies.items():
        taken, faults = one.codes[0], len(one.faults)
        refused = one.inputs - taken - faults
        print(f"{name:22}{one.inputs:7}{taken:7}{refused:8}{faults:7}{one.peak_mib:9.0f}{one.slowest:7.1f} s")
    inputs = sum(one.inputs for one in tallies.values())
    faults = sum(len(one.faults) for one in tallies.values())
    peak = max(one.peak_mib for one in tallies.values())
    print(f"{inputs} inputs, {faults} faults, peak {peak:.0f} MiB, {seconds:.0f} s")
    return 6 if faults else 0


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--inputs", type=int, default=2000, help="damaged inputs in all; 0: undamaged ones, which must be taken"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[*READERS, FLAGS], metavar="READER", help=", ".join([*READERS, FLAGS]))
    parser.add_argument("--number", type=int, help="run this input alone")
    parser.add_argument("--keep", type=Path, help="leave the last input in this folder")
    given = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.monotonic()
    keep = given.keep.resolve() if given.keep else None
    return show(fuzz(given.inputs, given.seed, given.only, given.number, keep), time.monotonic() - begun)


if __name__ == "__main__":
    sys.exit(main())
