"""Run the same commands on two checkouts of medcli and compare everything they produce.

    python docs/scripts/compare_outputs.py OLD NEW [--only NAME]... [--list] [--cache DIR]

OLD and NEW are checkouts. Compares exit codes, JSON, written files and the number of stderr lines of every command
in `compare_cases.py`, except measured times and versions. OLD's results are cached by commit. Exits 6 on a difference.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from compare_cases import ALLOWED, CASES, EXISTENCE_ONLY, IGNORED_KEYS, Case  # noqa: E402

RUNNER = """
import json, os, sys, numpy, torch
from medcli.cli.app import main
torch.set_num_threads(1)
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if not child:
        code = 1
        try:
            os.chdir(job["folder"])
            for name, number in (("out", 1), ("err", 2)):
                os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.argv = ["medcli", *job["words"]]
            code = int(main(job["words"]))
            sys.stdout.flush(); sys.stderr.flush()
        finally:
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Server that runs commands in forks of itself, so that torch is imported once."""

Result = dict[str, Any]


class Program:
    """The program of one checkout, ready to run commands."""

    def __init__(self, checkout: Path, cache: Path) -> None:
        kept = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        environment |= {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TERM": "dumb"}
        environment |= {
            "MEDCLI_CACHE": str(cache),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "100",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUNNER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd="/",
        )

    def run(self, line: str, folder: Path) -> tuple[int, str, str]:
        """Run one command in a folder; `>FILE` at its end keeps its stdout there."""
        words = shlex.split(line)
        target = folder / words.pop()[1:] if words[-1].startswith(">") else None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        out, err = folder.parent / "out", folder.parent / "err"
        job = {"words": [*words, "--json"], "folder": str(folder), "out": str(out), "err": str(err)}
        print(json.dumps(job), file=self.process.stdin, flush=True)
        code = int(self.process.stdout.readline() or 1)
        if target:
            shutil.copyfile(out, target)
        return code, out.read_text(), err.read_text()

    def close(self) -> None:
        """End the server."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def run_case(program: Program, case: Case, inputs: Path) -> Result:
    """Run a case in a folder of its own and describe what it left."""
    with tempfile.TemporaryDirectory(prefix="compare-") as scratch:
        folder = Path(scratch).resolve() / "work"
        folder.mkdir()
        (folder / "in").symlink_to(inputs)
        commands = []
        for line in case.lines:
            code, out, err = program.run(line, folder)
            commands.append({"line": line, "code": code, "json": read_json(out, folder), "err": err.splitlines()})
        files = {} if case.keys_only else {lasting(name): describe(folder / name, folder) for name in files_of(folder)}
    return {"commands": commands, "files": files}


def files_of(folder: Path) -> list[str]:
    """Names of the files below a folder, links to the inputs left out."""
    return sorted(
        str((Path(where) / name).relative_to(folder)) for where, _, names in os.walk(folder) for name in names
    )


def lasting(name: str) -> str:
    """Replace the random name of the lines that a process leaves in a part of a sample folder."""
    return re.sub(r"(\.processes)/[0-9a-f]+\.jsonl", r"\1/lines.jsonl", name)


def read_json(text: str, folder: Path) -> Any:
    """Parse JSON or JSON lines, with the folder's path replaced; other text becomes its number of lines."""
    text = text.replace(str(folder), "WORK")
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return [json.loads(line) for line in text.splitlines()]
    except ValueError:
        return f"text of {len(text.splitlines())} lines"


def describe(path: Path, folder: Path) -> Any:
    """Return what of a file is compared: JSON parsed; safetensors as header and hashes of modules; else a hash."""
    if path.suffix in (".json", ".jsonl"):
        value = read_json(path.read_text(), folder)
        # Lines are appended as images finish, by several threads.
        is_of_images = path.name == "images.jsonl" or path.parent.name == ".processes"
        return sorted(value, key=lambda line: line.get("index", -1)) if is_of_images else value
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        metadata = {name: read_json(text, folder) for name, text in header.pop("__metadata__", {}).items()}
        tensors: dict[str, Any] = {}
        for name in sorted(header):
            start, end = header[name].pop("data_offsets")
            group = tensors.setdefault(name.split(".")[0], hashlib.sha256())
            group.update(f"{name} {header[name]}".encode() + data[8 + length + start : 8 + length + end])
        tensors = {group: digest.hexdigest() for group, digest in tensors.items()}
        return {"metadata": metadata, "tensors": tensors}
    if path.suffix == ".npz":
        import zipfile

        with zipfile.ZipFile(path) as archive:
            return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in sorted(archive.namelist())}
    return hashlib.sha256(data).hexdigest()


def differences(old: Any, new: Any, ignored: re.Pattern[str], keys_only: bool, place: str = "") -> list[str]:
    """List where two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = [f"{place}.{key} is gone" for key in old.keys() - new.keys()]
        found += [f"{place}.{key} is new" for key in new.keys() - old.keys()]
        for key in old.keys() & new.keys():
            if not ignored.fullmatch(str(key)):
                found += differences(old[key], new[key], ignored, keys_only, f"{place}.{key}")
        return sorted(found)
    if isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            return [] if keys_only else [f"{place} has {len(new)} items, not {len(old)}"]
        pairs = enumerate(zip(old, new, strict=True))
        return [text for index, (a, b) in pairs for text in differences(a, b, ignored, keys_only, f"{place}[{index}]")]
    same = keys_only or old == new or (old != old and new != new)
    return [] if same else [f"{place}: {short(old)} -> {short(new)}"]


def short(value: Any) -> str:
    """Show a value in a few dozen characters."""
    text = json.dumps(value)
    return text if len(text) <= 50 else text[:47] + "..."


def compare(case: Case, old: Result, new: Result) -> list[str]:
    """List what differs between the results of one case."""
    ignored = re.compile("|".join([*IGNORED_KEYS, *case.ignored_keys]))
    found = []
    for number, (before, after) in enumerate(zip(old["commands"], new["commands"], strict=True), 1):
        place = f"command {number}"
        if before["code"] != after["code"]:
            found.append(f"{place} exits with {after['code']}, not {before['code']}: {' '.join(after['err'][-2:])}")
            continue
        found += differences(before["json"], after["json"], ignored, case.keys_only, f"{place} JSON")
        if len(before["err"]) != len(after["err"]):
            lines = " / ".join(after["err"])
            found.append(f"{place} writes {len(after['err'])} lines on stderr, not {len(before['err'])}: {lines}")
    for name in sorted(old["files"].keys() | new["files"].keys()):
        if name not in new["files"]:
            found.append(f"{name} is not written")
        elif name not in old["files"]:
            found.append(f"{name} is written, too")
        elif not any(fnmatch.fnmatch(name, pattern) for pattern in EXISTENCE_ONLY):
            found += differences(old["files"][name], new["files"][name], ignored, False, name)
    return [text for text in found if not any(re.fullmatch(pattern, text) for pattern in ALLOWED)]


def commit_of(checkout: Path) -> str | None:
    """Return the commit of a clean checkout, else None."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", checkout, *words], capture_output=True, text=True, check=False
        ).stdout.strip()

    return git("rev-parse", "HEAD") if not git("status", "--porcelain", "--", "medcli") else None


def make_inputs(place: Path, old: Path) -> Path:
    """Make the inputs once, under their final name only when complete."""
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
            made = Path(scratch) / "inputs"
            made.mkdir()
            environment = os.environ | {"PYTHONPATH": str(old)}
            subprocess.run([sys.executable, str(HERE / "compare_inputs.py"), made, old], check=True, env=environment)
            if not place.exists():
                made.rename(place)
    return place


class Side:
    """One checkout: starts its program when it is first needed, and keeps results if it has a store."""

    def __init__(self, checkout: Path, inputs: Path, features: Path, store: Path | None) -> None:
        self.checkout, self.inputs, self.features, self.store = checkout, inputs, features, store
        self.program: Program | None = None

    def result(self, name: str, case: Case) -> Result:
        """Run a case, or return its kept result."""
        words = json.dumps(dataclasses.asdict(case), sort_keys=True).encode()
        kept = self.store / f"{name}-{hashlib.sha256(words).hexdigest()[:12]}.json" if self.store else None
        if kept and kept.exists():
            loaded: Result = json.loads(kept.read_text())
            return loaded
        self.program = self.program or Program(self.checkout, self.features)
        result: Result = json.loads(json.dumps(run_case(self.program, case, self.inputs)))
        if kept:
            aside = kept.with_suffix(f".{os.getpid()}")
            aside.write_text(json.dumps(result))
            aside.replace(kept)
        return result

    def close(self) -> None:
        """End the program if it was started."""
        if self.program:
            self.program.close()


def main() -> int:
    """Compare two checkouts; 6 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, nargs="?")
    parser.add_argument("new", type=Path, nargs="?")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="cases whose name begins so")
    parser.add_argument("--list", action="store_true", help="list the cases")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "medcli-compare")
    given = parser.parse_args()
    names = [name for name in CASES if not given.only or name.startswith(tuple(given.only))]
    if given.list or not given.new:
        print("\n".join(f"{name:24}{CASES[name].lines[-1]}" for name in names))
        return 0 if given.list else 2
    commit = commit_of(given.old)
    scripts = hashlib.sha256((HERE / "compare_inputs.py").read_bytes() + Path(__file__).read_bytes()).hexdigest()[:8]
    store = given.cache.resolve() / f"{commit or os.getpid()}-{scripts}"
    inputs = make_inputs(store / "inputs", given.old.resolve())
    with tempfile.TemporaryDirectory(prefix="features-") as features:
        old = Side(given.old.resolve(), inputs, Path(features) / "old", store)
        new = Side(given.new.resolve(), inputs, Path(features) / "new", None)
        wrong = [name for name in names if show(name, old, new)]
        old.close()
        new.close()
    print(f"{len(names)} cases, {len(wrong)} differ" + (": " + ", ".join(wrong) if wrong else ""))
    return 6 if wrong else 0


def show(name: str, old: Side, new: Side) -> bool:
    """Run one case on both sides and print a line; whether they differ."""
    begun = time.perf_counter()
    case = CASES[name]
    if case.needs and not (old.checkout / case.needs).exists():
        print(f"skipped {name:24}{old.checkout} has no {case.needs}", flush=True)
        return False
    found = compare(case, old.result(name, case), new.result(name, case))
    print(f"{'differs' if found else 'same':8}{name:24}{time.perf_counter() - begun:6.1f} s", flush=True)
    for text in found[:12]:
        print(f"          {text}")
    if len(found) > 12:
        print(f"          ... and {len(found) - 12} more")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
