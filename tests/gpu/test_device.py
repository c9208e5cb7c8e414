"""Numbers, captured calls and kernels on a CUDA device: `pytest -n0 -m gpu tests/gpu`."""

import copy
from dataclasses import replace

import pytest
import torch

from medcli.engine.generate import generate
from medcli.engine.graphs import GraphedNetwork, graphed
from medcli.engine.networks import ladder_networks
from medcli.engine.plan import Labels, SamplingPlan
from medcli.kernels.available import has_kernels
from medcli.model.backbone import random_model
from medcli.model.mediator import MediatorAttention
from medcli.presets import preset_config
from medcli.runtime.noise import Stream, normal
from medcli.runtime.precision import products_of
from medcli.runtime.reporting import Silent
from medcli.schedule.spec import Schedule, static
from medcli.settings.sampler import SamplerConfig
from medcli.training.train import train
from tests.golden import test_models
from tests.unit.engine.tiny import LADDER, PIXELS, RHO, model_of
from tests.unit.training.runs import DATA, RUN, fresh

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICE = torch.device("cuda")
BATCH = 2


@pytest.fixture(scope="module")
def small():
    """SiT-S/2 at 256 px with mediators in all blocks, on the CPU."""
    config = preset_config("SiT-S/2")
    return random_model(replace(config, mediators=(4, 16, 64), mediator_layers=tuple(range(config.depth))))


def inputs(device):
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn(BATCH, 4, 32, 32, generator=generator), torch.linspace(0.1, 0.9, BATCH), torch.arange(BATCH)
    return [part.to(device) for part in parts]


def relative(found, expected):
    return ((found.double().cpu() - expected.double().cpu()).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", test_models.NETWORKS)
@torch.no_grad()
def test_float32_is_float32(name):
    model, recorded, settings = test_models.load_network(name)
    with products_of("fp32"):
        found = model.to(DEVICE)(*(recorded[key].to(DEVICE) for key in "xty")).cpu()
    torch.testing.assert_close(found, recorded["out"], **settings["tolerance"])


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 2e-5), ("tf32", 5e-3), ("bf16", 5e-2), ("fp16", 1e-2)])
@pytest.mark.parametrize("count", [0, 4, 16, 64])
@torch.no_grad()
def test_a_network_call_is_that_of_the_cpu_and_its_graph_has_the_same_bits(small, dtype, tolerance, count):
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    there = copy.deepcopy(small).to(DEVICE, types.get(dtype, torch.float32))
    (network,), (expected,) = ladder_networks(there, (count,)), ladder_networks(small, (count,))
    captured = graphed(network, DEVICE)
    with products_of(dtype):
        found = network.forward(*inputs(DEVICE))
        replayed = [captured.forward(*inputs(DEVICE)) for _ in range(2)]
    assert relative(found, expected.forward(*inputs("cpu"))) < tolerance
    assert isinstance(captured.forward, GraphedNetwork)
    assert captured.forward.is_capturable
    assert all(torch.equal(one, found) for one in replayed)


def test_noise_is_that_of_the_cpu():
    index_B, step_B = torch.arange(5) * 2**33 + 3, torch.arange(5)
    for seed in (0, 2**63 + 5):
        drawn = normal(seed, index_B.to(DEVICE), step_B.to(DEVICE), (4, 32, 32), Stream.NOISE).cpu()
        torch.testing.assert_close(
            drawn, normal(seed, index_B, step_B, (4, 32, 32), Stream.NOISE), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize(("head_width", "count"), [(64, 4), (64, 16), (64, 64), (72, 16), (72, 64)])
@pytest.mark.parametrize("is_absorbed", [True, False])
@torch.no_grad()
def test_the_mediator_kernels_against_float64(dtype, tolerance, head_width, count, is_absorbed):
    if not has_kernels("cuda"):
        pytest.skip("no Triton")
    torch.manual_seed(0)
    module = MediatorAttention(6 * head_width, 6, 16, (count,)).to(DEVICE)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    x_BND = torch.randn(BATCH, 256, 6 * head_width, device=DEVICE)
    expected = copy.deepcopy(module).double().mix(x_BND.double(), count, is_absorbed)
    module = module.to(dtype)
    found = module.mix_in_kernels(x_BND.to(dtype), count, is_absorbed)
    assert relative(found, expected) < tolerance


@pytest.mark.parametrize("schedule", [static(4), Schedule(kind="dynamic", counts=LADDER, rho=RHO)])
@torch.no_grad()
def test_images_are_those_of_the_cpu_again_and_again(schedule):
    plan = SamplingPlan(sampler=SamplerConfig(steps=14), schedule=schedule, labels=Labels(classes=(1, 2)), batch_size=4)
    on_cpu = {
        image.index: image for image in generate(ladder_networks(model_of(PIXELS), schedule.counts), plan, range(10))
    }
    there = model_of(PIXELS).to(DEVICE)
    networks = [graphed(network, DEVICE) for network in ladder_networks(there, schedule.counts)]
    with products_of("fp32"):
        runs = [list(generate(networks, plan, range(10), device=DEVICE)) for _ in range(2)]
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first.latent_CYX, second.latent_CYX)
        assert relative(first.latent_CYX, on_cpu[first.index].latent_CYX) < 1e-3
        assert first.switch_steps == on_cpu[first.index].switch_steps


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_training_runs_on_the_device(tmp_path, dtype):
    result = train(fresh(), DATA, replace(RUN, dtype=dtype), tmp_path, Silent(), device=DEVICE)
    assert result.loss is not None
    assert all(value.isfinite().all() for value in result.ema.values())
