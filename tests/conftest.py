"""What every test may rely on: a plain terminal, no network, one thread, and the program as a function."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import hypothesis
import pytest

from medcli.cli.app import main

# Toy sizes are slower with more threads, and their number changes the last digits. Read when torch is loaded, here and
# in the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"

# A busy machine is no fault of the code.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


@dataclass(frozen=True)
class Result:
    """What a user sees of one run."""

    code: int
    out: str
    err: str


RunCli = Callable[..., Result]


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep help free of escape codes and of the width of the terminal the tests run in."""
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("GITHUB_ACTIONS", "FORCE_COLOR", "NO_COLOR", "MEDCLI_DEBUG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that reaches out; processes of this machine may talk to each other."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo
    this_machine = (None, "", "localhost", socket.gethostname(), "127.0.0.1", "::1")

    def connect_here(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX or address[0] in this_machine, f"a test tried to reach {address}"
        connect(self, address)

    def look_up_here(host: Any, *args: Any, **options: Any) -> Any:
        assert host in this_machine, f"a test tried to look up {host}"
        return look_up(host, *args, **options)

    monkeypatch.setattr(socket.socket, "connect", connect_here)
    monkeypatch.setattr(socket, "getaddrinfo", look_up_here)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep features of a test away from the user's own, and from other tests."""
    monkeypatch.setenv("MEDCLI_CACHE", str(tmp_path_factory.getbasetemp() / f"features-{uuid4().hex}"))


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a new folder, as a user who has just installed the package would."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str]) -> RunCli:
    """Run the program as a user does: `run_cli("flops", "--res", "256")` or `run_cli(["flops", ...])`."""

    def run(*argv: Any) -> Result:
        words = argv[0] if len(argv) == 1 and isinstance(argv[0], list | tuple) else argv
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Result(int(code), captured.out, captured.err)

    return run
