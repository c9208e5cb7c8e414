"""What a GPU would say to training: operands on one device, no needless wait, no float64."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from medcli.model import kernel_choice
from medcli.runtime import noise
from medcli.training.batches import Batches
from medcli.training.block_autocast import called_with
from medcli.training.trainer import Trainer
from tests.pretend.cuda import DeviceMismatch, pretend_cuda
from tests.unit.training.runs import DATA, RUN, fresh
from tests.unit.training.small_models import LADDER_MODEL

DIT = replace(LADDER_MODEL, family="dit")
STEPS = 2


@pytest.fixture(autouse=True)
def no_triton(monkeypatch):
    for user in (noise, kernel_choice):
        monkeypatch.setattr(user, "has_kernels", lambda device_type: False)


class Alone:
    """One process on a device, as `Distributed` shows it; accelerate would look for a real one."""

    def __init__(self, device):
        self.device = torch.device(device)

    def prepare(self, objective, optimizer):
        return objective  # its model is there already

    def unsynchronised(self, prepared):
        return nullcontext()

    def gather(self, values):
        return values


def trained(device, log=None, *, network=LADDER_MODEL, spoil=None, **settings):
    """Train a few steps; return the losses and the averaged weights."""
    config, model, where = replace(RUN, **settings), fresh(network), torch.device(device)
    model.to(where)
    trainer = Trainer(model, None, config, Alone(where))
    batches = Batches.of(DATA, config, model.config, device=where)
    losses = []
    with called_with(model.ordered_blocks(), device=where, dtype=torch.float32):
        for step in range(STEPS):
            if log is not None and step == 1:  # the optimizer's state is made in the first
                log.clear()
            batch = trainer.with_timesteps(batches.draw(step), batches.time_uniforms(step))
            if spoil is not None:
                batch = spoil(batch)
            losses.append(trainer.train_step(batch, step + 1).loss)
    if log is not None:
        log.record = log.syncs.copy(), log.fp64.copy()
    return [loss.item() for loss in losses], {name: value.cpu() for name, value in trainer.ema.weights(model).items()}


CLIPPING = ("device to host", "update")
"""No wait of a GPU: torch groups gradients by their device in C++, for which a pretended one is the CPU."""
LOSSES = ("device to host", "_observe")

CASES = {
    "sit": {},
    "accumulated": {"micro_batch_size": 3, "ladder_rule": "split"},
    "dit, times by loss": {"network": DIT, "timesteps": "loss"},
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_waits_for_nothing_but_losses_that_choose_the_next_times(case):
    expected_losses, expected = trained("cpu", **CASES[case])
    with pretend_cuda() as log:
        losses, found = trained("cuda", log, **CASES[case])
    syncs, fp64 = log.record
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    waits = [(what, where.split()[-1]) for (what, where), times in syncs.items() for _ in range(times)]
    assert sorted(waits) == sorted([CLIPPING, *([LOSSES] if "loss" in case else [])])
    assert not fp64


def test_a_label_left_on_the_cpu_is_refused():
    with pretend_cuda(), pytest.raises(DeviceMismatch):
        trained("cuda", spoil=lambda batch: batch._replace(label_B=batch.label_B.cpu()))
