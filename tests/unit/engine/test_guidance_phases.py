"""Guidance in a part of the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from medcli.diffusion.steps import build_sampler
from medcli.engine.cost import image_gmacs
from medcli.engine.generate import generate
from medcli.engine.guidance_phases import Phase, null_calls, num_passes, phases
from medcli.engine.networks import Guidance, LadderNetwork, guided, ladder_networks
from medcli.engine.plan import FinishedImage, Labels, SamplingPlan, philox_noise
from medcli.errors import ConfigError
from medcli.schedule.spec import Schedule, static
from medcli.settings.sampler import SamplerConfig
from tests.unit.engine.tiny import LADDER, RHO, model_of

STEPS = 10
DYNAMIC = Schedule(kind="dynamic", counts=LADDER, rho=RHO)
SOLVERS = [
    SamplerConfig(steps=STEPS),
    SamplerConfig(solver="heun", steps=STEPS),
    SamplerConfig(solver="exp2", steps=STEPS),
]


def made(guidance: Guidance, *, rows: list[int] | None = None, **settings: Any) -> dict[int, FinishedImage]:
    plan = SamplingPlan(
        **{
            "sampler": SOLVERS[0],
            "schedule": DYNAMIC,
            "labels": Labels(classes=tuple(range(10))),
            "guidance": guidance,
            "batch_size": 4,
            **settings,
        }
    )
    networks = ladder_networks(model_of(), plan.schedule.counts)
    if rows is not None:
        networks = tuple(counting(network, rows) for network in networks)
    return {image.index: image for image in generate(networks, plan, range(9))}


def counting(network: LadderNetwork, rows: list[int]) -> LadderNetwork:
    def forward(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        rows.append(len(x))
        return network.forward(x, t, label)

    return replace(network, forward=forward)


def assert_equal(one: dict[int, FinishedImage], other: dict[int, FinishedImage]) -> None:
    for index, image in one.items():
        assert torch.equal(image.latent_CYX, other[index].latent_CYX)
        assert (image.switch_steps, image.calls) == (other[index].switch_steps, other[index].calls)


def test_a_step_is_guided_if_it_starts_inside() -> None:
    before, inside, after = Phase.BEFORE, Phase.INSIDE, Phase.AFTER
    for even in (SamplerConfig(sampler="ode", steps=5), SamplerConfig(sampler="ddpm", steps=4)):
        steps = build_sampler(even)
        assert phases(Guidance(scale=2), steps).tolist() == [inside] * 4
        assert phases(Guidance(scale=2, interval=(0.25, 0.75)), steps).tolist() == [before, inside, inside, after]
        assert phases(Guidance(scale=2, interval=(0.26, 1)), steps).tolist() == [before, before, inside, inside]
        assert phases(Guidance(scale=2, interval=(0.5, 0.5)), steps).tolist() == [before] * 4
        assert phases(Guidance(scale=1), steps).tolist() == [before] * 4


def test_an_interval_is_of_the_paths_time_and_its_ends_are_met_despite_rounding() -> None:
    shifted = build_sampler(SamplerConfig(sampler="ode", solver="adams2", steps=4, time_shift=0.3))
    assert shifted.times == pytest.approx((0, 0.0909091, 0.2307692, 0.4736842), abs=1e-6)
    ends = (shifted.times[1] + 1e-7, shifted.times[3] - 1e-7)
    assert phases(Guidance(scale=2, interval=ends), shifted).tolist() == [0, 1, 1, 2]
    sde = build_sampler(SamplerConfig(steps=5))  # 0, 0.24, 0.48, 0.72, and the last step at 0.96
    assert phases(Guidance(scale=2, interval=(0.24, 0.96)), sde).tolist() == [0, 1, 1, 1, 2]


@pytest.mark.parametrize("cut", [0.0, 0.3, 0.37, 0.5, 1.0])
def test_intervals_that_meet_share_no_step_and_leave_none_out(cut: float) -> None:
    steps = build_sampler(SamplerConfig(sampler="ode", steps=11))
    first, second = (phases(Guidance(scale=2, interval=ends), steps) for ends in ((0.0, cut), (cut, 1.0)))
    assert (((first == Phase.INSIDE).long() + (second == Phase.INSIDE).long()) == 1).all()


@pytest.mark.parametrize(("sampler", "ends"), [*zip(SOLVERS, [(0.0, 0.0), (0.4, 0.4), (1.0, 1.0)], strict=True)])
@pytest.mark.parametrize("schedule", [DYNAMIC, static(4)])
def test_the_whole_way_is_plain_guidance_and_an_empty_interval_none_bit_for_bit(
    sampler: SamplerConfig, ends: tuple[float, float], schedule: Schedule
) -> None:
    settings = {"sampler": sampler, "schedule": schedule}
    whole = made(Guidance(scale=3.0, channels=None, interval=(0.0, 1.0)), **settings)
    assert_equal(whole, made(Guidance(scale=3.0, channels=None), **settings))
    rows: list[int] = []
    empty = made(Guidance(scale=3.0, channels=None, interval=ends), rows=rows, **settings)
    assert_equal(empty, made(Guidance(), **settings))
    assert set(rows) == {4}
    assert not torch.equal(whole[0].latent_CYX, empty[0].latent_CYX)


@pytest.mark.parametrize("sampler", SOLVERS)
def test_an_image_is_guided_inside_alone(sampler: SamplerConfig) -> None:
    """Its own loop: guided network calls at the steps inside, plain ones outside."""
    guidance = Guidance(scale=3.0, channels=None, interval=(0.29, 0.69))
    images = made(guidance, sampler=sampler, schedule=static(4))
    (network,) = ladder_networks(model_of(), (4,))
    steps = build_sampler(sampler)
    noise, index_B = philox_noise(0, (1, 8, 8)), torch.tensor([7])
    x = noise(index_B, torch.tensor([0]))
    memory = torch.zeros(1, steps.num_remembered, 1, 8, 8) if steps.num_remembered else None
    with torch.no_grad():
        for step in range(steps.num_steps):
            is_inside = 0.29 <= steps.times[step] < 0.69
            predict = guided(network, torch.tensor([7]), guidance if is_inside else Guidance())
            drawn = noise(index_B, torch.tensor([step + 1]))
            x = steps.step(predict, x, torch.tensor([step]), drawn, memory_BMCYX=memory)
    torch.testing.assert_close(images[7].latent_CYX, x[0], atol=1e-4, rtol=1e-4)


def test_at_a_fixed_batch_shape_neighbours_change_no_bit_and_only_two_shapes_run() -> None:
    guidance, rows = Guidance(scale=3.0, channels=None, interval=(0.2, 0.6)), list[int]()
    everything = made(guidance, rows=rows)
    assert set(rows) == {4, 8}
    plan = SamplingPlan(
        sampler=SOLVERS[0],
        schedule=DYNAMIC,
        labels=Labels(classes=tuple(range(10))),
        guidance=guidance,
        batch_size=4,
    )
    alone = {image.index: image for image in generate(ladder_networks(model_of(), LADDER), plan, [8, 3])}
    assert_equal(alone, everything)


@pytest.mark.parametrize("sampler", SOLVERS)
def test_costs_are_the_rows_that_ran(sampler: SamplerConfig) -> None:
    guidance, rows = Guidance(scale=3.0, interval=(0.2, 0.6)), list[int]()
    images = made(guidance, rows=rows, sampler=sampler, schedule=static(4), batch_size=3)
    assert sum(rows) == sum(image.passes[0] for image in images.values())
    steps = build_sampler(sampler)
    assert images[0].passes == (num_passes(steps, guidance),)
    assert num_passes(steps, guidance) == steps.nfe + int(null_calls(steps, guidance).sum())
    assert steps.nfe < num_passes(steps, guidance) < 2 * steps.nfe
    assert image_gmacs(images[0].passes, [2.0]) == 2.0 * num_passes(steps, guidance)


@pytest.mark.parametrize("ends", [(0.6, 0.4), (-0.1, 0.5), (0.5, 1.1), (float("nan"), 1.0), (0.0, float("inf"))])
def test_ends_that_make_no_interval_are_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="LO <= HI"):
        Guidance(scale=2, interval=ends)
