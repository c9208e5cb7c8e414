import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcli.diffusion.steps import build_sampler
from medcli.engine.batched_rule import num_deciding
from medcli.engine.generate import generate
from medcli.engine.networks import ladder_networks
from medcli.engine.observer import Distances
from medcli.engine.plan import Labels, SamplingPlan
from medcli.engine.threshold_replay import NEVER, QUANTILES, quantiles, relative, switch_steps, triggers
from medcli.schedule.dynamic import DynamicSchedule
from medcli.schedule.spec import Schedule
from medcli.settings.sampler import SamplerConfig
from tests.unit.engine.tiny import model_of


def test_what_a_threshold_would_trigger_is_what_the_engine_does() -> None:
    # Both entries run the same network, so a dynamic run's images go the way of the recorded ones.
    rho, indices = (0.97, 0.9), range(8)
    schedule = Schedule(kind="dynamic", counts=(1, 4, 16), rho=rho, warmup_steps=2)
    plan = SamplingPlan(
        sampler=SamplerConfig(steps=14), schedule=schedule, labels=Labels(classes=(1, 2)), seed=1, batch_size=4
    )
    sampler, model = build_sampler(plan.sampler), model_of()
    noted = Distances(indices, sampler.num_steps)
    same = [ladder_networks(model, (1,))[0]] * 3
    networks = [
        type(network)(network.forward, network.config, count) for network, count in zip(same, (1, 4, 16), strict=True)
    ]
    made = {image.index: image.switch_steps for image in generate(networks, plan, indices, observer=noted)}
    found = triggers(noted.distance_IL["l1"], rho, warmup_steps=2, num_deciding=num_deciding(sampler))
    for index, steps in made.items():
        assert tuple(int(trigger.switch_I[index]) for trigger in found if trigger.switch_I[index] != NEVER) == steps
    assert len(set(made.values())) > 1


@settings(deadline=None, max_examples=30)
@given(rho=st.floats(0.01, 1.5), warmup=st.integers(1, 4), seed=st.integers(0, 99), length=st.integers(2, 12))
def test_the_rule_is_replayed_image_by_image(rho: float, warmup: int, seed: int, length: int) -> None:
    distance_IL = np.random.default_rng(seed).random((5, length))
    trigger = switch_steps(distance_IL, rho, warmup_steps=warmup, num_deciding=length - 1)
    rule = DynamicSchedule(ladder=(4, 16), rho=(rho,), warmup_steps=warmup)
    for image, row in enumerate(distance_IL):
        state, moved = rule.start(), NEVER
        for step in range(1, length - 1):
            state = rule.observe(state, float(row[step]))
            if state.index and moved == NEVER:
                moved = step
        assert trigger.switch_I[image] == moved


def test_quantiles_of_switch_steps_count_images_that_never_move() -> None:
    falling = np.array([[9, 1, 1, 0.4, 0.1], [9, 1, 1, 1, 0.1], [9, 1, 1, 1, 1], [9, 1, 1, 1, 1]])
    trigger = switch_steps(falling, 0.5, warmup_steps=1, num_deciding=5)
    assert trigger.switch_I.tolist() == [3, 4, NEVER, NEVER]
    assert trigger.share == 0.5
    assert trigger.mean_step == 3.5
    assert [trigger.quantile(level) for level in (0.05, 0.25, 0.5, 0.75)] == [3, 3, 4, None]
    never = switch_steps(falling, 0.01, warmup_steps=1, num_deciding=5)
    assert (never.share, never.mean_step, never.quantile(0.05)) == (0, None, None)


def test_distances_are_put_in_relation_to_the_warm_up_without_the_first_jump() -> None:
    distance_IL = np.array([[100.0, 2, 4, 1.5, 0.3], [100.0, 0, 0, 0, 0]])
    parts = relative(distance_IL, 2)
    np.testing.assert_allclose(parts[0, 1:], [2 / 3, 4 / 3, 0.5, 0.1])
    assert np.isnan(parts[0, 0])
    assert np.isnan(parts[1]).all(), "an image that does not move has no scale"
    assert distance_IL[0, 0] == 100, "the input stays"


def test_quantiles_are_over_images() -> None:
    values_IL = np.stack([np.full(3, np.nan), np.arange(3.0), 10 + np.arange(3.0)])
    values_IL[:, 0] = np.nan
    found_QL = quantiles(values_IL)
    assert found_QL.shape == (len(QUANTILES), 3)
    assert np.isnan(found_QL[:, 0]).all()
    assert found_QL[QUANTILES.index(0.5)].tolist()[1:] == pytest.approx([6, 7])
