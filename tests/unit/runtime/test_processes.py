import pytest

from medcli.runtime.processes import LAUNCHERS, Processes, launch_remark, this_process


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*(name for names in LAUNCHERS for name in names), "MASTER_ADDR", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_launcher_there_is_one_process() -> None:
    assert this_process() == Processes(rank=0, count=1, local_rank=0)
    assert this_process().is_first
    assert this_process().is_alone


@pytest.mark.parametrize("names", LAUNCHERS)
def test_a_launcher_tells_rank_and_count(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(names, ("5", "8", "1"), strict=True):
        monkeypatch.setenv(name, value)
    assert this_process() == Processes(rank=5, count=8, local_rank=1)
    assert not this_process().is_first
    assert not this_process().is_alone


def test_a_launcher_that_started_one_process_of_several_is_remarked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert launch_remark() is None
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # accelerate launch --cpu --num_processes 2
    assert "torchrun" in str(launch_remark())
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launch_remark() is None
