"""What a GPU would say to the engine: operands on one device, no needless wait, no float64."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from medcli.engine.generate import generate
from medcli.engine.networks import Guidance, ladder_networks
from medcli.engine.plan import Labels, SamplingPlan, forward_inputs
from medcli.model import kernel_choice, mediator
from medcli.model.linear import linear_gelu
from medcli.runtime import noise
from medcli.schedule.spec import Schedule, static
from medcli.settings.sampler import SamplerConfig
from tests.pretend.cuda import DeviceMismatch, pretend_cuda
from tests.unit.engine.tiny import LADDER, PIXELS, RHO, model_of

DYNAMIC = Schedule(kind="dynamic", counts=LADDER, rho=RHO)
DIT = replace(PIXELS, family="dit", learn_sigma=True)


@pytest.fixture(autouse=True)
def no_triton(monkeypatch):
    for user in (noise, kernel_choice):
        monkeypatch.setattr(user, "has_kernels", lambda device_type: False)


def test_operands_on_two_devices_are_refused():
    with pretend_cuda():
        here = torch.ones(3, device="cuda")
        with pytest.raises(DeviceMismatch):
            here + torch.ones(3)
        assert (here + torch.tensor(1.0)).tolist() == [2.0, 2.0, 2.0]  # a number may be on the CPU


def test_every_kind_of_wait_is_seen():
    with pretend_cuda() as log:
        here = torch.arange(4, device="cuda")
        waits = {
            "item": lambda: here.sum().item(),
            "bool": lambda: bool(here.any()),
            "cpu": lambda: here.cpu(),
            "mask": lambda: here[here > 1],
            "index from the CPU": lambda: here[torch.tensor([0])],
            "upload": lambda: torch.ones(2).to("cuda"),
            "nonzero": here.nonzero,
            "tolist": here.tolist,
        }
        for name, wait in waits.items():
            before = log.num_syncs
            wait()
            assert log.num_syncs > before, name
        before = log.num_syncs
        torch.ones(2).to("cuda", non_blocking=True)
        here[torch.arange(2, device="cuda")]
        assert log.num_syncs == before


def plan_of(**settings):
    usual = {"sampler": SamplerConfig(steps=8), "schedule": DYNAMIC, "labels": Labels(classes=(1, 2)), "batch_size": 3}
    return SamplingPlan(**{**usual, **settings})


CASES = {
    "dynamic": (PIXELS, {}),
    "static": (PIXELS, {"schedule": static(4)}),
    "interval": (PIXELS, {"guidance": Guidance(scale=1.5, channels=None, interval=(0.2, 0.7))}),
    "adams3": (PIXELS, {"schedule": static(4), "sampler": SamplerConfig(sampler="ode", solver="adams3", steps=6)}),
    "ddpm": (DIT, {"sampler": SamplerConfig(sampler="ddpm", steps=8)}),
}


LONG = ("interval", "adams3")
"""Cases of the slow tests: a pretended operation takes a hundred times as long."""


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.slow if case in LONG else ()) for case in CASES])
def test_the_engine_waits_once_an_iteration_for_the_distances_and_never_else(case):
    config, settings = CASES[case]
    plan, model = plan_of(**settings), model_of(config)
    expected = {image.index: image for image in generate(ladder_networks(model, plan.schedule.counts), plan, range(5))}
    with pretend_cuda() as log:
        model.to("cuda")
        log.clear()
        made = list(generate(ladder_networks(model, plan.schedule.counts), plan, range(5), device="cuda"))
        for image in made:
            own, usual = image.latent_CYX.cpu(), expected[image.index].latent_CYX
            assert (own - usual).abs().max() < 1e-5 * usual.abs().max()
            assert image.switch_steps == expected[image.index].switch_steps
    waits = [times for (_, where), times in log.syncs.items() if where.startswith("runtime/readback.py")]
    assert len(waits) == (1 if plan.schedule.is_dynamic else 0)
    often = {where for (_, where), times in log.syncs.items() if times > len(made)}
    often = {where for where in often if not where.startswith("runtime/readback.py")}
    # Tables, sent once.
    assert not {
        where for where in often if not where.startswith(("diffusion/gaussian.py", "diffusion/solver_tables.py"))
    }
    assert not log.fp64


def test_the_next_batch_is_launched_before_the_last_ones_distances_are_read():
    plan, model = plan_of(sampler=SamplerConfig(steps=5), batch_size=2), model_of(PIXELS)
    expected = {image.index: image for image in generate(ladder_networks(model, LADDER), plan, range(8))}
    with pretend_cuda() as log:
        model.to("cuda")
        made = list(generate(ladder_networks(model, LADDER), plan, range(8), device="cuda"))
        assert {image.index: image.switch_steps for image in made} == {
            index: image.switch_steps for index, image in expected.items()
        }
        for image in made:
            own, usual = image.latent_CYX.cpu(), expected[image.index].latent_CYX
            assert (own - usual).abs().max() < 1e-5 * usual.abs().max()
    # Not at the end, where too few other images are left for a batch of the same shape.
    busy = [num_kernels for num_kernels in log.overlaps if num_kernels > 100]
    assert len(busy) > len(log.overlaps) / 2


def test_position_biases_are_composed_once_for_all_calls_of_a_network(monkeypatch):
    model, made = model_of(PIXELS), []
    compose = mediator.compose_biases
    monkeypatch.setattr(mediator, "compose_biases", lambda *tables: made.append(1) or compose(*tables))
    with pretend_cuda(), torch.no_grad():
        model.to("cuda")
        network = ladder_networks(model, (4,))[0]
        for _ in range(2):
            network.forward(*forward_inputs(network, 2, torch.device("cuda")))
            assert len(made) == len(model.blocks)


def test_the_gelu_is_part_of_its_product_on_a_gpu():
    generator = torch.Generator().manual_seed(0)
    x_BNE, weight_DE, bias_D = (
        torch.randn(shape, generator=generator).bfloat16() for shape in ((2, 5, 8), (6, 8), (6,))
    )
    with pretend_cuda() as log, torch.no_grad():
        parts = [part.to("cuda") for part in (x_BNE, weight_DE, bias_D)]
        log.clear()
        fused_BND = linear_gelu(*parts)
        assert log.num_kernels == 1
        found_BND = fused_BND.cpu()
    expected_BND = F.gelu(F.linear(x_BNE.double(), weight_DE.double(), bias_D.double()), approximate="tanh")
    torch.testing.assert_close(found_BND.double(), expected_BND, rtol=2e-2, atol=2e-2)
