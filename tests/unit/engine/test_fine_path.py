"""Distances to the exact path, and what few calls and early mediators keep of it on the bundled model."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import medcli
from medcli.data.assets import bundled_model
from medcli.engine.fine_path import final_latents, fine_latents, fine_plan, follows_path, relative_errors
from medcli.engine.generate import generate
from medcli.engine.networks import Guidance, ladder_networks
from medcli.engine.plan import Labels, SamplingPlan
from medcli.model.backbone import DiffusionTransformer
from medcli.schedule.spec import FULL, Schedule, static
from medcli.settings.sampler import SamplerConfig

PLAN = SamplingPlan(
    sampler=SamplerConfig(sampler="ode", solver="adams3", steps=12),
    schedule=FULL,
    labels=Labels(classes=tuple(range(10))),
    batch_size=16,
)


@pytest.fixture(scope="module")
def model() -> DiffusionTransformer:
    return medcli.load(bundled_model("digits"))


def latents(model: DiffusionTransformer, num_images: int, schedule: Schedule = FULL, **sampler: Any) -> torch.Tensor:
    plan = replace(
        PLAN,
        schedule=schedule,
        sampler=replace(PLAN.sampler, **sampler),
        batch_size=min(PLAN.batch_size, num_images),
    )
    return final_latents(list(generate(ladder_networks(model, schedule.counts), plan, range(num_images))))


def test_samplers_with_noise_or_steps_of_their_own_have_no_exact_path() -> None:
    ddim = SamplerConfig(sampler="ddim")
    assert follows_path(PLAN.sampler)
    assert follows_path(ddim)
    noisy = [replace(ddim, eta=0.5), SamplerConfig(sampler="ddpm"), SamplerConfig(sampler="sde")]
    assert not any(map(follows_path, [*noisy, replace(PLAN.sampler, solver="dopri5")]))


def test_the_fine_path_is_of_full_attention_under_the_same_guidance_and_equation() -> None:
    sampler = SamplerConfig(sampler="ode", solver="euler", steps=7, path="gvp", prediction="score")
    guided = replace(PLAN, sampler=sampler, schedule=static(4), guidance=Guidance(scale=2.0), seed=3)
    fine = fine_plan(guided)
    assert fine == replace(guided, schedule=FULL, sampler=replace(sampler, solver="rk4", steps=50))
    ddim = replace(guided, sampler=SamplerConfig(sampler="ddim", solver="multistep2", grid="logsnr", steps=9))
    assert fine_plan(ddim).sampler == SamplerConfig(sampler="ddim", solver="multistep3", steps=200)


def test_the_error_of_an_image_is_relative_to_its_own_norm() -> None:
    exact = torch.tensor([[3.0, 4.0], [0.0, 10.0]]).view(2, 1, 1, 2)
    made = torch.tensor([[3.0, 4.5], [0.0, 11.0]]).view(2, 1, 1, 2)
    assert relative_errors(made, exact).tolist() == pytest.approx([0.1, 0.1])


def test_latents_come_in_the_order_of_their_numbers(model: DiffusionTransformer) -> None:
    few, more = latents(model, 2), latents(model, 5)
    torch.testing.assert_close(few, more[:2], rtol=1e-4, atol=1e-4)
    fine = fine_latents(ladder_networks(model, (0,))[0], replace(PLAN, batch_size=2), range(2))
    assert relative_errors(few, fine).max() < 0.03


@pytest.mark.slow
def test_the_fine_path_is_that_of_250_steps_of_rk4(model: DiffusionTransformer) -> None:
    exact = latents(model, 8, solver="rk4", steps=250)
    fine = fine_latents(ladder_networks(model, (0,))[0], PLAN, range(8))
    assert relative_errors(fine, exact).mean() <= 0.0005


@pytest.mark.slow
def test_few_calls_stay_near_the_exact_path_and_mediators_belong_early(model: DiffusionTransformer) -> None:
    num_images = 64
    exact = fine_latents(ladder_networks(model, (0,))[0], PLAN, range(num_images))

    def error(schedule: Schedule = FULL, **sampler: Any) -> float:
        return float(relative_errors(latents(model, num_images, schedule, **sampler), exact).mean())

    limits = {("adams3", 12): 0.013, ("adams3", 8): 0.023, ("adams3", 20): 0.007, ("adams2", 8): 0.030}
    errors = {(solver, calls): error(solver=solver, steps=calls) for solver, calls in limits}
    assert all(errors[key] <= limits[key] for key in limits), errors
    half = Schedule(kind="timed", counts=(1, 0), at=(0.5,))
    early = error(half)
    # No schedule begins with full attention, so the two networks change names.
    one, dense = ladder_networks(model, half.counts)
    swapped = replace(dense, num_mediators=1), replace(one, num_mediators=0)
    late = final_latents(list(generate(swapped, replace(PLAN, schedule=half), range(num_images))))
    assert early <= 0.055
    assert early < float(relative_errors(late, exact).mean()) / 2
