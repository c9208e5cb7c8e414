import pytest
import torch

from medcli.errors import ConfigError, EnvironmentProblem
from medcli.runtime.device import pick_device, use_device
from medcli.runtime.processes import Processes, this_process


def test_the_best_device_is_taken_when_none_is_named() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert pick_device().type == pick_device("auto").type == expected
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "cpu:1"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(EnvironmentProblem) as caught:
        pick_device(name)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["toaster", "xpu", "meta", "", "cuda:x", "cuda:-1"])
def test_a_name_of_no_device_is_a_mistake(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown device") as caught:
        pick_device(name)
    assert caught.value.hint


def test_each_process_of_a_launch_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    ranks = [Processes(rank=rank, count=4, local_rank=rank) for rank in range(4)]
    assert [str(pick_device(None, rank)) for rank in ranks] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert str(pick_device("cuda:1", ranks[0])) == "cuda:1"
    assert str(pick_device("cpu", ranks[1])) == "cpu"
    assert str(pick_device(None)) == "cuda"
    assert not current
    # Otherwise every process would open a context on the first GPU.
    used = [use_device(None, ranks[1]), use_device("cuda:1")]
    assert used == current == [torch.device("cuda", 1)] * 2
    assert [str(use_device("cpu", ranks[1])), str(use_device())] == ["cpu", "cuda"]
    assert len(current) == 2


def test_a_task_of_srun_takes_the_gpu_of_its_number_on_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    for name in ("RANK", "WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("SLURM_PROCID", "13"), ("SLURM_NTASKS", "16"), ("SLURM_LOCALID", "5")):
        monkeypatch.setenv(name, value)
    assert str(pick_device(None, this_process())) == "cuda:5"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # srun --gpus-per-task 1
    assert str(pick_device(None, this_process())) == "cuda:0"
