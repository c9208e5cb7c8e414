"""Processes of a run; those of a launch are tested in tests/cli/test_train_processes.py."""

import pytest
import torch

from medcli.errors import ConfigError
from medcli.training import distributed as distributed_module
from medcli.training.batches import CPU
from medcli.training.distributed import Distributed


@pytest.mark.parametrize("name", ["cpu", "cuda:1", "mps"])
def test_a_run_trains_on_the_device_it_is_given_not_on_the_one_accelerate_would_take(name):
    device = torch.device(name)
    assert Distributed(device, has_idle_parameters=False).device == device


def test_accelerate_moves_nothing():
    model, distributed = torch.nn.Linear(2, 2), Distributed(CPU, has_idle_parameters=False)
    assert not distributed._accelerator.device_placement
    assert distributed.prepare(model, torch.optim.SGD(model.parameters())) is model


def test_processes_do_not_share_a_gpu(monkeypatch):
    class Accelerated:
        """What accelerate finds as the second of two processes, each on its own GPU."""

        distributed_type = distributed_module.DistributedType.MULTI_GPU
        num_processes, process_index, device = 2, 1, torch.device("cuda", 1)

    monkeypatch.setattr(distributed_module, "Accelerator", lambda **_: Accelerated())
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert Distributed(torch.device("cuda", 1), has_idle_parameters=False).rank == 1
    with pytest.raises(ConfigError, match="each needs a GPU of its own"):
        Distributed(torch.device("cuda", 0), has_idle_parameters=False)
