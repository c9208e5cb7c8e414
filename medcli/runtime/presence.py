"""Signs of life of the processes that fill a folder; they need no locks.

Each process keeps a file in `.processes` from when it enters to when it leaves, and a thread renews the file's time. A
process of this machine is alive if the system says so; one of another machine if its file's time changes while it is
watched, whatever the clocks of the two say. A process that was killed, or a rank that failed, leaves its file behind.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Event, Thread

from medcli.errors import EnvironmentProblem
from medcli.runtime.json_records import InvalidJson, as_record, read_json
from medcli.runtime.locks import unwritable
from medcli.runtime.processes import Part, Processes

SIGNS = ".processes"
"""Folder of the signs; removed with the last."""
BEAT_S = 1.0
"""Seconds between two renewals."""
WATCH_S = 5.0
"""Seconds after which an unchanged sign is dead when a process enters."""
LOST_S = 60.0
"""Seconds after which an unchanged sign is dead where a wrong answer would repeat work: a network may stall."""
MAX_BYTES = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Sign:
    """A process that is, or was, in a folder."""

    host: str
    pid: int = field(metadata={"min": 0})
    machine: str
    """System start and process namespace in which `pid` means something; empty where the system does not tell."""
    began: str
    """Start time of the process, as a process id is used again."""
    part: Part | None
    """Part of the work that is divided without locks; None for a process that claims by locks."""
    has_failed: bool = False


class Presence:
    """This process's sign in a folder, and those of others.

    Args:
        folder: The folder that is filled.
        processes: The launch of this process.
    """

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.id = secrets.token_hex(8)
        """Name of this process in the folder."""
        self.folder = folder / SIGNS
        part = processes.part if processes.is_divided else None
        self._sign = Sign(host=socket.gethostname(), pid=os.getpid(), machine=_machine(), began=_began(), part=part)
        self._file = self.folder / self.id
        self._left = Event()
        self._seen: dict[Path, tuple[int, float, bool]] = {}

    def enter(self) -> None:
        """Make the sign and begin to renew it.

        Raises:
            EnvironmentProblem: If the folder can't be written to.
        """
        self._write(self._sign)
        self._left = Event()
        Thread(target=_renew, args=(self._file, self._left), name="presence", daemon=True).start()

    def leave(self, *, failed: bool = False) -> None:
        """Stop; a rank that failed leaves its sign as a killed one does, so that rank 0 makes its part."""
        self._left.set()
        if failed:
            with suppress(EnvironmentProblem):
                self._write(replace(self._sign, has_failed=True))
        else:
            self.remove(self._file)
            with suppress(OSError):
                self.folder.rmdir()

    def others(self) -> dict[Path, Sign]:
        """Return the signs of other processes, dead or alive."""
        found = {}
        with suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                if path != self._file and not path.suffix and (sign := _read(path)):
                    found[path] = sign
        return found

    def count(self) -> int:
        """Count the signs, this process's included."""
        try:
            return max(1, sum("." not in name for name in os.listdir(self.folder)))
        except FileNotFoundError:
            return 1

    def living(self, signs: dict[Path, Sign]) -> list[Sign]:
        """Return the signs of live processes, after watching those of other machines, and remove those of dead ones."""
        unknown, living = dict(signs), []
        while unknown:
            states = {path: self.lives(path, sign, WATCH_S) for path, sign in unknown.items()}
            for path, state in states.items():
                if state is not None:
                    sign = unknown.pop(path)
                if state:
                    living.append(sign)
                elif state is False:
                    self.remove(path)
            if unknown:
                time.sleep(BEAT_S / 4)
        return living

    def lives(self, path: Path, sign: Sign, patience_s: float) -> bool | None:
        """Return True for a live process and False for one that has ended; None while it is not known.

        A process of another machine has ended if its sign has not changed for `patience_s` seconds of being looked at.
        """
        is_running, beat, now = _is_running(sign), _beat(path), time.monotonic()
        if is_running is not None or beat is None:
            return bool(is_running)
        before, since, has_changed = self._seen.get(path, (beat, now, False))
        if beat != before:
            since, has_changed = now, True
        self._seen[path] = (beat, since, has_changed)
        if now - since > patience_s:
            return False
        return True if has_changed else None

    def remove(self, path: Path) -> None:
        """Remove a sign."""
        with suppress(OSError):
            path.unlink()

    def _write(self, sign: Sign) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file.write_text(json.dumps(asdict(sign)))
        except OSError as err:
            raise unwritable(self.folder.parent, err) from err


def _renew(file: Path, left: Event) -> None:
    while not left.wait(BEAT_S):
        with suppress(OSError):
            os.utime(file)


def _read(path: Path) -> Sign | None:
    try:
        return as_record(Sign, read_json(path, MAX_BYTES))
    except (InvalidJson, OSError):
        return None


def _beat(path: Path) -> int | None:
    """Return the time of a sign; opened, as NFS asks the server for the time of a file only then."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None


def _machine() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _began(pid: int | None = None) -> str:
    """Return the start time of a process by the system's clock ticks; empty if it has ended or is unknown."""
    try:
        state, *numbers = Path(f"/proc/{pid or os.getpid()}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state in "ZX" else numbers[18]


def _is_running(sign: Sign) -> bool | None:
    """Return True for a live process of this machine, False for one that has ended or failed; None for unknown."""
    if sign.has_failed:
        return False
    if not sign.machine or sign.machine != _machine():
        return None
    return bool(sign.began) and _began(sign.pid) == sign.began
