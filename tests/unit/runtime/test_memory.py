from pathlib import Path

import pytest
import torch

from medcli.runtime import memory
from medcli.runtime.memory import MIB, peak_memory_mib

CPU = torch.device("cpu")
on_linux = pytest.mark.skipif(memory._reset_peak_mib() is None, reason="this system does not tell a process's peak")


@on_linux
def test_the_peak_is_what_the_work_held_at_once_whatever_came_before() -> None:
    def hold(mib: int) -> None:
        torch.ones(mib * MIB // 4).sum()

    hold(200)
    for _ in range(2):
        hold(30)  # by now freed memory of this size is kept for the next who asks
    assert peak_memory_mib(lambda: hold(20), CPU) == pytest.approx(20, abs=8)
    assert peak_memory_mib(lambda: hold(64), CPU) == pytest.approx(64, abs=8)
    assert peak_memory_mib(lambda: hold(32), CPU) == pytest.approx(32, abs=8)


def test_where_the_system_does_not_tell_the_work_is_done_and_the_peak_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "nowhere")
    done = []
    assert peak_memory_mib(lambda: done.append(1), CPU) is None
    assert done == [1]
