import torch

from medcli.engine.generate import generate
from medcli.engine.networks import ladder_networks
from medcli.engine.plan import Labels, SamplingPlan
from medcli.runtime.timing import Clock
from medcli.schedule.spec import static
from medcli.settings.sampler import SamplerConfig
from medcli.tuning.running import mean_and_error, run_plan
from tests.unit.engine.tiny import model_of


def test_a_run_is_the_engines_in_order_and_its_seconds_are_per_image() -> None:
    plan = SamplingPlan(
        sampler=SamplerConfig(sampler="ode", solver="adams3", steps=4),
        schedule=static(4),
        labels=Labels(classes=(1, 2)),
        batch_size=2,
    )
    ticks = iter((0.0, 0.0, 6.0, 6.0))
    clock = Clock(name="fake", now=lambda: next(ticks), wall=lambda: 0.0, synchronize=lambda: None)
    model, ticks = model_of(), iter((1.0, 7.0))
    made = run_plan(model, plan, range(3), device=torch.device("cpu"), clock=clock)
    assert made.seconds == 2.0
    images = sorted(generate(ladder_networks(model, (4,)), plan, range(3)), key=lambda image: image.index)
    assert torch.equal(made.latent_ICYX, torch.stack([image.latent_CYX for image in images]))


def test_a_mean_has_its_standard_error() -> None:
    assert mean_and_error([1.0]) == (1.0, 0.0)
    assert mean_and_error([1.0, 2.0, 3.0]) == (2.0, (1 / 3) ** 0.5)
