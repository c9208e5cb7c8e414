import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from medcli.engine.generate import generate
from medcli.engine.networks import Guidance, ladder_networks
from medcli.engine.plan import FinishedImage, Labels, SamplingPlan, philox_noise
from medcli.errors import ConfigError
from medcli.schedule.spec import FULL, Schedule, static
from medcli.settings.sampler import SamplerConfig
from papers_loop import even_rho, papers_loop, papers_plan
from papers_network import PapersNetwork
from tests.unit.engine.tiny import LADDER, PIXELS, RHO, model_of, with_ladder

NOISE = philox_noise(0, (1, 8, 8))
PLAN = SamplingPlan(
    sampler=SamplerConfig(steps=14),
    schedule=Schedule(kind="dynamic", counts=LADDER, rho=RHO),
    labels=Labels(classes=tuple(range(10))),
    batch_size=5,
)


def papers_images(plan: SamplingPlan, indices: range) -> list[FinishedImage]:
    weights = model_of().state_dict()
    networks = [PapersNetwork(weights, PIXELS, count) for count in plan.schedule.counts]
    return list(papers_loop(networks, plan, indices, noise=NOISE))


@pytest.mark.parametrize("schedule", [PLAN.schedule, static(4), FULL], ids=lambda schedule: schedule.kind)
def test_the_papers_loop_makes_the_engines_images_with_twice_the_calls(schedule: Schedule) -> None:
    plan = replace(PLAN, schedule=schedule)
    engine = {image.index: image for image in generate(ladder_networks(model_of(), schedule.counts), plan, range(7))}
    images = papers_images(plan, range(7))
    assert [image.index for image in images] == list(range(7))
    for image in images:
        twin = engine[image.index]
        assert (image.label, image.switch_steps) == (twin.label, twin.switch_steps)
        assert image.calls == tuple(2 * calls for calls in twin.calls)
        assert (image.latent_CYX - twin.latent_CYX).abs().max() <= 1e-6 * twin.latent_CYX.abs().max()
    if schedule.is_dynamic:
        assert len({image.switch_steps for image in images}) > 1


def test_the_papers_loop_runs_one_image_at_a_time() -> None:
    batches = []

    def forward(latent_BCYX: Tensor, t_B: Tensor, label_B: Tensor) -> Tensor:
        batches.append((len(latent_BCYX), len(t_B), len(label_B)))
        return torch.zeros_like(latent_BCYX)

    plan = replace(PLAN, schedule=FULL)
    assert len(list(papers_loop([forward], plan, [3, 1], noise=NOISE))) == 2
    assert batches == [(1, 1, 1)] * (2 * 2 * 14)


@pytest.mark.parametrize("change", [{"sampler": SamplerConfig(sampler="ode")}, {"guidance": Guidance(scale=2.0)}])
def test_the_papers_loop_refuses_what_the_papers_loop_does_not_do(change: dict) -> None:
    with pytest.raises(ConfigError, match="default SDE"):
        papers_images(replace(PLAN, **change), range(1))


@pytest.mark.parametrize(("steps", "counts"), [(5, 3), (6, 3), (30, 3), (30, 4), (250, 2)])
def test_even_thresholds_give_each_count_its_share_of_steps_when_noise_decides(steps: int, counts: int) -> None:
    ladder = tuple(range(1, counts + 1))
    plan = papers_plan(with_ladder(PIXELS, *(count**2 for count in ladder)), steps, 4)
    assert plan is not None
    assert plan.sampler == SamplerConfig(steps=steps)
    state, rule, used = plan.schedule.rule().start(), plan.schedule.rule(), [0] * counts
    for step in range(steps):
        used[state.index] += 1
        if 1 <= step < steps - 1:
            state = rule.observe(state, math.sqrt(1 - step * 0.96 / (steps - 1)))
    assert sum(used) == steps
    assert min(used) >= 1
    if steps >= 30:
        assert max(used) - min(used) <= 2


def test_too_few_steps_for_a_ladder_are_refused_with_the_number_that_does() -> None:
    with pytest.raises(ConfigError, match="too few to climb") as refused:
        even_rho(3, 4)
    assert refused.value.hint == "try --steps 5"
    assert len(even_rho(3, 5)) == 2
