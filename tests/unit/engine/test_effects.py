"""Guidance, thresholds and starts that can have no effect are found before anything runs, and nothing else is."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcli.diffusion.steps import build_sampler
from medcli.engine.effects import check_effects, refuse_unreachable_moves, unreachable_moves, unreached_counts
from medcli.engine.guidance_phases import null_calls
from medcli.engine.networks import Guidance
from medcli.engine.plan import Labels, SamplingPlan
from medcli.errors import ConfigError
from medcli.schedule.spec import FULL, Schedule
from medcli.settings.sampler import SamplerConfig
from medcli.workflows.image_cost import earliest_moves

SAMPLERS = st.builds(
    SamplerConfig,
    sampler=st.sampled_from(["sde", "ode"]),
    solver=st.sampled_from(["euler", "heun"]),
    steps=st.integers(2, 12),
    last_step=st.sampled_from(["mean", "none"]),
)
SHARES = st.floats(0, 1)
PLAN = SamplingPlan(sampler=SamplerConfig(steps=6), schedule=FULL, labels=Labels(classes=(0,)))


def dynamic(warmup_steps: int) -> Schedule:
    return Schedule(kind="dynamic", counts=(1, 4), rho=(0.5,), warmup_steps=warmup_steps)


@given(SAMPLERS, st.integers(1, 15))
@settings(deadline=None)
def test_a_schedule_is_refused_exactly_if_no_image_could_ever_move(sampler: SamplerConfig, warmup_steps: int) -> None:
    plan = replace(PLAN, sampler=sampler, schedule=dynamic(warmup_steps))
    built = build_sampler(sampler)
    # A move at the last step changes no network.
    can_move = any(step < built.num_steps - 1 for step in earliest_moves(plan.schedule, built))
    assert (unreachable_moves(plan) is None) == can_move
    if not can_move:
        with pytest.raises(ConfigError, match=f"after a warm-up of {warmup_steps}") as caught:
            refuse_unreachable_moves(plan)
        fewest = built.num_steps - 3 if sampler.sampler == "ode" else None
        if fewest is not None and fewest >= 1:
            assert f"--warmup-steps {fewest} or less" in str(caught.value.hint)
            refuse_unreachable_moves(replace(plan, schedule=dynamic(fewest)))


@given(SAMPLERS, SHARES, SHARES)
@settings(deadline=None)
def test_guidance_is_refused_exactly_if_no_step_is_guided(sampler: SamplerConfig, one: float, two: float) -> None:
    guidance = Guidance(scale=2.0, interval=(min(one, two), max(one, two)))
    plan = replace(PLAN, sampler=sampler, guidance=guidance)
    if null_calls(build_sampler(sampler), guidance).any():
        check_effects(plan)
    else:
        with pytest.raises(ConfigError, match="guidance is never on"):
            check_effects(plan)
    check_effects(replace(plan, guidance=replace(guidance, scale=1.0)))


@given(SAMPLERS, st.lists(st.floats(0.001, 0.999), min_size=2, max_size=2, unique=True))
@settings(deadline=None)
def test_starts_are_refused_exactly_if_a_count_gets_no_step(sampler: SamplerConfig, at: list[float]) -> None:
    schedule = Schedule(kind="timed", counts=(1, 4, 0), at=tuple(sorted(at)))
    plan, num_steps = replace(PLAN, sampler=sampler, schedule=schedule), build_sampler(sampler).num_steps
    if {schedule.index_at(step, num_steps) for step in range(num_steps)} == {0, 1, 2}:
        check_effects(plan)
    else:
        with pytest.raises(ConfigError, match="--at leaves none"):
            check_effects(plan)


def test_other_plans_are_left_alone() -> None:
    adaptive = SamplerConfig(sampler="ode", solver="dopri5")
    for plan in (PLAN, replace(PLAN, sampler=adaptive, guidance=Guidance(scale=2.0))):
        check_effects(plan)
        refuse_unreachable_moves(plan)
    with pytest.raises(ConfigError, match="never on"):
        check_effects(replace(PLAN, sampler=adaptive, guidance=Guidance(scale=2.0, interval=(0.5, 0.5))))


LADDER = Schedule(kind="dynamic", counts=(4, 16, 64), rho=(0.3, 0.1))


@pytest.mark.parametrize(
    ("switch_steps", "missed"), [([(), (9,)], "64 mediators"), ([(), ()], "16,64 mediators"), ([(3,), (4, 5)], None)]
)
def test_counts_that_no_image_reached_are_named(switch_steps: list[tuple[int, ...]], missed: str | None) -> None:
    remark = unreached_counts(LADDER, SamplerConfig(), switch_steps)
    if missed is None:
        assert remark is None
    else:
        assert remark is not None
        assert f"no image ever reached {missed}" in remark
        assert "try --rho 0.61,0.46 or --schedule timed --at 0.33,0.67" in remark


def test_other_thresholds_are_proposed_only_where_they_are_known() -> None:
    never = [()]
    last = replace(LADDER, counts=(4, 0), rho=(0.3,))
    assert str(unreached_counts(last, SamplerConfig(), never)).endswith("try --schedule timed --at 0.5")
    assert "no image ever reached full attention" in str(unreached_counts(last, SamplerConfig(), never))
    constant = SamplerConfig(diffusion_form="constant")
    assert str(unreached_counts(LADDER, constant, never)).endswith("try --schedule timed --at 0.33,0.67")
    assert unreached_counts(FULL, SamplerConfig(), never) is None
