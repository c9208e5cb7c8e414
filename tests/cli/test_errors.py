"""Errors of several processes: one of them speaks."""

from __future__ import annotations

import pytest

from medcli.cli import errors
from medcli.cli.errors import PATIENCE_SECS, Interrupted, is_reported_elsewhere
from medcli.errors import DataError
from medcli.runtime.processes import Processes
from tests.conftest import RunCli

FIRST, SECOND = Processes(rank=0, count=2), Processes(rank=1, count=2)


def stopped(seconds: float) -> None:
    """What the launcher does to those that wait, once the first has left."""
    raise KeyboardInterrupt


def never(seconds: float) -> None:
    raise AssertionError("nobody has to wait")


def test_the_first_process_speaks_at_once() -> None:
    assert not is_reported_elsewhere(DataError("no images"), FIRST, never)
    assert not is_reported_elsewhere(Interrupted("interrupted"), FIRST, never)


def test_another_one_waits_to_be_stopped_and_is_silent() -> None:
    assert is_reported_elsewhere(DataError("no images"), SECOND, stopped)


def test_what_nobody_stops_has_a_trouble_of_its_own() -> None:
    waited: list[float] = []
    assert not is_reported_elsewhere(DataError("no images"), SECOND, waited.append)
    assert waited == [PATIENCE_SECS]


def test_an_interruption_is_nothing_to_wait_for() -> None:
    assert is_reported_elsewhere(Interrupted("interrupted"), SECOND, never)


@pytest.mark.parametrize(
    ("rank", "wait", "said"),
    [
        ("0", stopped, ["error: no such data set: nothere"]),
        ("1", stopped, []),
        ("1", lambda seconds: None, ["error: process 1: no such data set: nothere"]),
    ],
)
def test_of_two_processes_that_fail_one_is_heard(
    run_cli: RunCli, monkeypatch: pytest.MonkeyPatch, rank: str, wait: object, said: list[str]
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(errors.time, "sleep", wait)
    result = run_cli("finetune", "--data", "nothere", "--device", "cpu")
    assert result.code == 4
    assert result.err.splitlines()[:-1] == said
