from __future__ import annotations

import pytest
import torch

from medcli.diffusion.adaptive import integrate_adaptive, ode_field, solve
from medcli.diffusion.steps import build_sampler
from medcli.settings.sampler import PathName, PredictionName, SamplerConfig
from tests.unit.diffusion.gaussian_data import MEAN, STD, exact_network

Z = torch.linspace(-2, 2, 9).view(-1, 1, 1, 1)


@pytest.mark.parametrize("path", ["linear", "gvp"])
def test_dopri5_solves_the_ode_to_its_tolerance(path: PathName) -> None:
    config = SamplerConfig(sampler="ode", solver="dopri5", path=path)
    x = integrate_adaptive(exact_network(path, "velocity"), Z, config, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(x, MEAN + STD * Z, rtol=1e-4, atol=1e-4)
    back = integrate_adaptive(exact_network(path, "velocity"), x, config, reverse=True, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(back, Z, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("prediction", ["velocity", "noise", "score"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("solver", ["euler", "heun", "heun3", "midpoint", "rk4"])
def test_fixed_steps_equal_torchdiffeqs(solver: str, prediction: PredictionName, reverse: bool) -> None:
    config = SamplerConfig(sampler="ode", solver=solver, prediction=prediction, steps=20, path="vp")
    predict = exact_network("vp", prediction)
    sampler, x = build_sampler(config, reverse=reverse), Z
    for step in range(sampler.num_steps):
        x = sampler.step(predict, x, torch.full((len(x),), step), None)
    theirs = solve(ode_field(predict, config), Z, config, num_points=20, reverse=reverse, atol=0.0, rtol=0.0)
    torch.testing.assert_close(x, theirs[-1], rtol=1e-3, atol=1e-4)


def test_dopri5_depends_on_who_shares_the_batch() -> None:
    """Why it is offered for static schedules only; docs/samplers.md says so."""
    config = SamplerConfig(sampler="ode", solver="dopri5")
    predict = exact_network("linear", "velocity")
    alone = integrate_adaptive(predict, Z[:1], config)
    shared = integrate_adaptive(predict, torch.cat([Z[:1], 20 * Z[5:]]), config)[:1]
    assert (alone - shared).abs().max() > 1e-3
