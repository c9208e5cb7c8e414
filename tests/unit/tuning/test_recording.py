"""Networks with mediators in some layers, the recorded parent, and whole runs, against the parts they stand for."""

import math

import numpy as np
import pytest
import torch

import medcli
from medcli.engine.generate import generate
from medcli.engine.networks import Guidance, ladder_networks
from medcli.engine.plan import Labels, SamplingPlan
from medcli.runtime.reporting import Silent
from medcli.schedule.spec import Schedule
from medcli.settings.checkpoints import ConvertRequest
from medcli.settings.network import NetworkSource, format_layers
from medcli.settings.sampler import SamplerConfig
from medcli.tuning.networks import config_with, network_of
from medcli.tuning.recording import Stepper, joined, measure_steps, record_parent
from medcli.tuning.running import cost_of_moves, mean_and_error, relative_error, run_configuration, squared_errors
from medcli.tuning.space import DENSE, FULL_ATTENTION, Configuration, NetworkVariant
from medcli.workflows.convert import convert
from tests.unit.engine.tiny import PIXELS, model_of, save

CPU = torch.device("cpu")
SDE = SamplerConfig(sampler="sde", steps=8)
UNGUIDED = Guidance()
ADAMS = SamplerConfig(sampler="ode", solver="adams3", steps=6)
HEUN = SamplerConfig(sampler="ode", solver="heun", steps=6)


def plan_of(sampler=SDE, guidance=UNGUIDED):
    schedule = Schedule(kind="full", warmup_steps=2, distance="l1")
    labels = Labels(classes=tuple(range(10)))
    return SamplingPlan(sampler=sampler, schedule=schedule, labels=labels, guidance=guidance, seed=3, batch_size=4)


def inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 1, 8, 8, generator=generator), torch.tensor([0.1, 0.5, 0.9]), torch.tensor([1, 2, 3])


@pytest.mark.parametrize("variant", [NetworkVariant((1,), 4), NetworkVariant((0, 1), 16), DENSE])
def test_mediators_in_some_layers_are_what_a_conversion_to_these_makes(tmp_path, variant):
    source = save(tmp_path / "ladder.safetensors")
    output = tmp_path / "some.safetensors"
    ladder = () if variant == DENSE else None
    convert(
        ConvertRequest(
            network=NetworkSource(checkpoint=source, mediators=ladder, layers=format_layers(variant.layers)),
            output=output,
            digest=False,
        )
    )
    converted = medcli.load(output)
    network = network_of(model_of(), variant)
    assert network.config == converted.config == config_with(PIXELS, variant.layers)
    with torch.no_grad():
        assert torch.equal(network.forward(*inputs()), converted(*inputs(), variant.count))


GUIDED = Guidance(scale=2.0, channels=None, interval=(0.25, 0.75))


@pytest.mark.parametrize(
    ("sampler", "guidance"),
    [(SDE, UNGUIDED), (HEUN, UNGUIDED), (SDE, GUIDED), (ADAMS, UNGUIDED), (ADAMS, GUIDED)],
)
def test_the_recorded_way_is_the_one_the_engine_takes(tmp_path, sampler, guidance):
    model, plan, numbers = model_of(), plan_of(sampler, guidance), range(4, 8)
    stepper = Stepper.of(plan, network_of(model, DENSE), CPU)
    record_parent(tmp_path / "states.npy", stepper, network_of(model, DENSE), numbers)
    states = np.load(tmp_path / "states.npy")
    assert states.shape == (stepper.sampler.num_steps + 1, 4, 1 + stepper.sampler.num_remembered, 8, 8)
    own = measure_steps(states, stepper, DENSE, network_of(model, DENSE), numbers)
    assert not own.error_KI.any()
    states = states[:, :, :1]
    made = sorted(generate(ladder_networks(model, (0,)), plan, numbers), key=lambda image: image.index)
    assert torch.equal(torch.from_numpy(states[-1]), torch.stack([image.latent_CYX for image in made]))
    assert [path.name for path in tmp_path.iterdir()] == ["states.npy"]


def test_one_step_from_the_parents_states_is_measured_against_the_parents_own(tmp_path):
    model, plan, numbers = model_of(), plan_of(), range(3)
    dense = network_of(model, DENSE)
    stepper = Stepper.of(plan, dense, CPU)
    record_parent(tmp_path / "states.npy", stepper, dense, numbers)
    states = np.load(tmp_path / "states.npy").astype(np.float64)
    own = measure_steps(np.load(tmp_path / "states.npy"), stepper, DENSE, dense, numbers)
    assert not own.error_KI.any()
    change = np.abs(np.diff(states, axis=0)).mean(axis=(2, 3, 4))
    np.testing.assert_allclose(own.distance_KI("l1"), change, rtol=1e-5)
    np.testing.assert_allclose(
        own.distance_KI("l2"), np.square(np.diff(states, axis=0)).mean(axis=(2, 3, 4)), rtol=1e-5
    )

    first = NetworkVariant((0,), 1)
    other = network_of(model, first)
    recorded = np.load(tmp_path / "states.npy")
    table = measure_steps(recorded, stepper, first, other, numbers)
    step = 5
    after = stepper.step(other, torch.from_numpy(states[step].astype(np.float32)), numbers, step).double().numpy()
    wanted = np.sqrt(np.square(after - states[step + 1]).sum(axis=(1, 2, 3)))
    np.testing.assert_allclose(table.error_KI[step], wanted, rtol=1e-5)
    assert (table.error_KI[:-1] > 0).all()

    some = measure_steps(recorded, stepper, first, other, numbers, every=3)
    np.testing.assert_array_equal(some.error_KI, table.error_KI[::3])
    assert joined([some, some]).error_KI.shape == (len(some.error_KI), 6)


def test_a_run_is_the_engines_with_the_configurations_schedule():
    model, plan, numbers = model_of(), plan_of(), range(6)
    configuration = Configuration((0, 1), (1, 4, 16), (0.98, 0.9))
    made = run_configuration(model, configuration, plan, numbers, CPU, Silent())
    schedule = Schedule(kind="dynamic", counts=(1, 4, 16), rho=(0.98, 0.9), warmup_steps=2, distance="l1")
    whole = SamplingPlan(sampler=SDE, schedule=schedule, labels=plan.labels, seed=3, batch_size=4)
    images = sorted(generate(ladder_networks(model, (1, 4, 16)), whole, numbers), key=lambda image: image.index)
    assert made.moves == tuple(image.switch_steps for image in images)
    assert any(made.moves)
    assert torch.equal(made.latent_ICYX, torch.stack([image.latent_CYX for image in images]))
    full = run_configuration(model, FULL_ATTENTION, plan, numbers, CPU, Silent())
    assert squared_errors(full.latent_ICYX, full.latent_ICYX) == [0.0] * 6
    assert min(squared_errors(made.latent_ICYX, full.latent_ICYX)) > 0


def test_the_relative_error_is_the_mean_of_the_images_own():
    value, deviation = relative_error([4.0, 0.0], [16.0, 9.0])
    assert value == 0.25
    assert deviation == pytest.approx(0.25)
    assert mean_and_error([5.0]) == (5.0, 0.0)
    assert mean_and_error([1.0, 2.0, 3.0]) == (2.0, pytest.approx(1 / math.sqrt(3)))


def test_the_cost_of_runs_follows_their_moves():
    configuration = Configuration((0,), (1, 4), (0.5,))
    prices = {NetworkVariant((0,), 1): 1.0, NetworkVariant((0,), 4): 10.0}
    mean, deviation = cost_of_moves(configuration, [(1,), ()], torch.tensor([1, 1, 1, 2]), prices)
    assert mean == ((1 + 1 + 10 + 20) + (1 + 1 + 1 + 2)) / 2
    assert deviation == pytest.approx((32 - 5) / 2)
