import pytest

from medcli.runtime.processes import Processes, this_process

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_without_a_launcher_there_is_one_process() -> None:
    assert this_process() == Processes(rank=0, count=1, local_rank=0)
    assert this_process().is_first
    assert this_process().is_alone


def test_a_launcher_tells_rank_and_count(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(NAMES, ("5", "8", "1"), strict=True):
        monkeypatch.setenv(name, value)
    assert this_process() == Processes(rank=5, count=8, local_rank=1)
    assert not this_process().is_first
    assert not this_process().is_alone
