"""Fitted solvers on equations whose exact answer is known, and on small networks of every kind."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medcli.diffusion.gaussian import NUM_TRAIN_TIMESTEPS, gaussian_tables
from medcli.diffusion.multistep import adams_weights, gaussian_weights, multistep_rows
from medcli.engine.fine_path import relative_errors
from medcli.engine.networks import Guidance
from medcli.engine.plan import Labels, SamplingPlan
from medcli.runtime.reporting import Silent
from medcli.runtime.timing import clock_for
from medcli.schedule.spec import FULL, Schedule
from medcli.settings.sampler import SamplerConfig
from medcli.tuning.fit import Path, best_times, end_of, first_order, fitted_rows, record_path
from medcli.tuning.running import run_plan
from tests.unit.engine.test_generate import DIT
from tests.unit.engine.tiny import PIXELS, model_of

CPU = torch.device("cpu")
ADAMS = SamplerConfig(sampler="ode", solver="adams3", steps=4)
MULTISTEP = SamplerConfig(sampler="ddim", solver="multistep2", steps=4)


def plan_of(sampler: SamplerConfig, **parts: object) -> SamplingPlan:
    values = {"schedule": FULL, "labels": Labels(classes=(1, 2, 3)), "batch_size": 4, "seed": 3, **parts}
    return SamplingPlan(sampler=sampler, **values)  # type: ignore[arg-type]


def test_first_order_steps_are_euler_and_ddim() -> None:
    assert first_order(ADAMS)(0.25, 0.75) == (1.0, 0.5)
    abar = gaussian_tables(range(NUM_TRAIN_TIMESTEPS)).alphas_cumprod.numpy()
    exact = gaussian_weights(abar, [900, 300], 1)
    assert first_order(MULTISTEP)(900, 300) == pytest.approx((exact.state_L[0], exact.weight_LJ[0, 0]), rel=1e-12)
    assert first_order(MULTISTEP)(300, -1) == pytest.approx((exact.state_L[1], exact.weight_LJ[1, 0]), rel=1e-12)
    assert adams_weights(np.array([0.25, 0.75]), 1).weight_LJ[0, 0] == 0.5


def test_the_times_found_are_the_best_of_all_choices() -> None:
    generator = torch.Generator().manual_seed(0)
    time_T = np.linspace(0, 1, 8)
    path = Path(time_T, torch.randn(8, 2, 3, generator=generator), torch.randn(7, 2, 3, generator=generator))

    def cost(places: list[int]) -> float:
        ends = [*places[1:], 7]
        steps = (
            path.state_TIF[j] - path.state_TIF[i] - (time_T[j] - time_T[i]) * path.slope_TIF[i]
            for i, j in zip(places, ends, strict=True)
        )
        return sum(float(missed.norm(dim=1).mean()) for missed in steps)

    found = best_times(path, ADAMS, 3)
    others = [[0, i, j] for i in range(1, 6) for j in range(i + 1, 7)]
    assert found == min(others, key=cost)
    assert best_times(path, ADAMS, 7) == list(range(7))
    assert best_times(path, ADAMS, 1) == [0]


@pytest.mark.parametrize(
    ("config", "sampler", "parts"),
    [
        (PIXELS, ADAMS, {}),
        (PIXELS, ADAMS, {"guidance": Guidance(scale=2.0, channels=None, interval=(0.3, 1.0))}),
        (DIT, MULTISTEP, {"guidance": Guidance(scale=1.5, channels=None)}),
    ],
    ids=["ode", "guided in part", "dit"],
)
def test_a_fit_recovers_more_of_the_fine_path_on_images_it_has_not_seen(config, sampler, parts) -> None:
    model, plan = model_of(config), plan_of(sampler, **parts)
    fine = replace(plan, sampler=replace(sampler, steps=50))
    seen, unseen, clock = range(8, 24), range(8), clock_for(CPU, 1)
    path = record_path(model, fine, seen, CPU, Silent())
    exact = run_plan(model, fine, unseen, device=CPU, clock=clock).latent_ICYX
    recorded = run_plan(model, fine, seen, device=CPU, clock=clock).latent_ICYX
    assert path.state_TIF[-1].view_as(recorded) == pytest.approx(recorded, abs=1e-5)
    rows = fitted_rows(model, plan, path, seen, CPU, Silent())
    assert rows.weights.weight_LJ.shape == (4, 3)
    assert np.all(np.diff(rows.time_L) * (-1 if config is DIT else 1) > 0)
    before, after = (
        float(relative_errors(run_plan(model, one, unseen, device=CPU, clock=clock).latent_ICYX, exact).mean())
        for one in (plan, replace(plan, rows=rows))
    )
    assert after < 0.9 * before


def test_networks_by_progress_are_fitted_along_their_own_path() -> None:
    model = model_of()
    plan = plan_of(ADAMS, schedule=Schedule(kind="timed", counts=(1, 0), at=(0.5,)))
    path = record_path(model, plan_of(replace(ADAMS, steps=40)), range(8), CPU, Silent())
    mixed = fitted_rows(model, plan, path, range(8), CPU, Silent())
    dense = fitted_rows(model, plan_of(ADAMS), path, range(8), CPU, Silent())
    assert np.array_equal(mixed.time_L, dense.time_L)
    assert not np.allclose(mixed.weights.weight_LJ, dense.weights.weight_LJ)


def test_the_end_of_the_path_is_the_solvers_own() -> None:
    for sampler in (ADAMS, replace(ADAMS, prediction="noise")):
        rows = multistep_rows(replace(sampler, solver="adams2", steps=2))
        assert rows.time_L[-1] + rows.weights.weight_LJ[-1].sum() == pytest.approx(end_of(sampler))
    assert end_of(MULTISTEP) == -1
