"""`medcli fid` under a launcher: one process speaks, the others compute."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medcli.errors import ExitCode
from medcli.scores.classifier import ClassifierExtractor
from tests.cli.test_fid import DIGITS, npz, sample_folder
from tests.conftest import RunCli

SetRank = Callable[[int], None]


@pytest.fixture
def rank(monkeypatch: pytest.MonkeyPatch) -> SetRank:
    """Be a process of two, as torchrun would have it."""

    def be(number: int) -> None:
        for name, value in (("RANK", number), ("WORLD_SIZE", 2), ("LOCAL_RANK", number)):
            monkeypatch.setenv(name, str(value))

    return be


def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClassifierExtractor, "run", lambda *_: pytest.fail("the network ran"))


def test_the_second_process_computes_and_the_first_shows(
    empty_folder: Path, run_cli: RunCli, rank: SetRank, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample_folder(empty_folder / "samples" / "x")
    alone = json.loads(run_cli("fid", "--json", "--no-cache").out)
    rank(1)
    second = run_cli("fid", "--json")
    assert (second.code, second.out, second.err) == (ExitCode.DONE, "", "")
    no_network(monkeypatch)
    rank(0)
    first = run_cli("fid", "--json")
    assert first.code == ExitCode.DONE, first.err
    assert json.loads(first.out) == alone


def test_all_sets_of_a_comparison_and_its_reference_are_shared(
    empty_folder: Path, run_cli: RunCli, rank: SetRank, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = [sample_folder(empty_folder / name) for name in ("a", "b")]
    command = ("fid", "--compare", *sets, "--reference", npz(empty_folder / "r.npz", DIGITS[30:60]))
    rank(1)
    assert run_cli(*command).out == ""
    no_network(monkeypatch)
    rank(0)
    result = run_cli(*command, "--json")
    assert result.code == ExitCode.DONE, result.err
    assert len(json.loads(result.out)["rows"]) == 2


def test_one_process_writes_a_reference(
    empty_folder: Path, run_cli: RunCli, rank: SetRank, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("fid", npz(empty_folder / "x.npz", DIGITS[:20]), "--extractor", "digits", "--write-reference", "r.npz")
    rank(1)
    assert run_cli(*command).code == ExitCode.DONE
    assert not Path("r.npz").exists()
    no_network(monkeypatch)
    rank(0)
    assert run_cli(*command).code == ExitCode.DONE
    assert Path("r.npz").exists()


def test_ready_statistics_need_nobody_elses_help(
    empty_folder: Path, run_cli: RunCli, rank: SetRank, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample_folder(empty_folder / "x")
    assert run_cli("fid", "x", "--write-reference", "r.npz", "--reference-images", 0).code == ExitCode.DONE
    no_network(monkeypatch)
    rank(1)
    assert run_cli("fid", "r.npz", "r.npz").code == ExitCode.DONE


def test_reports_alone_need_nobody_elses_help(empty_folder: Path, run_cli: RunCli, rank: SetRank) -> None:
    rank(1)
    assert run_cli("fid", "--compare", "a.json", "b.json").code == ExitCode.DONE


def test_processes_without_a_cache_have_nothing_to_share(empty_folder: Path, run_cli: RunCli, rank: SetRank) -> None:
    sample_folder(empty_folder / "x")
    rank(0)
    result = run_cli("fid", "x", "--no-cache")
    assert result.code == ExitCode.USAGE
    assert "leave out --no-cache, or start one process with --workers" in result.err
