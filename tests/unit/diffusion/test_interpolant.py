from __future__ import annotations

import pytest
import torch

from medcli.diffusion import interpolant
from medcli.diffusion.interpolant import path_point
from medcli.settings.sampler import PathName, PredictionName


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
def test_derivatives_are_those_of_the_path(path: PathName) -> None:
    t, step = torch.linspace(0.05, 0.95, 10, dtype=torch.float64), 1e-6
    here, before, after = (path_point(path, t + shift) for shift in (0.0, -step, step))
    torch.testing.assert_close(here.d_alpha, (after.alpha - before.alpha) / (2 * step), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(here.d_sigma, (after.sigma - before.sigma) / (2 * step), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
def test_variance_term_is_one_formula_on_every_path(path: PathName) -> None:
    point = path_point(path, torch.linspace(0.05, 0.95, 10, dtype=torch.float64))
    expected = point.rate * point.sigma**2 - point.sigma * point.d_sigma
    torch.testing.assert_close(point.variance, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("prediction", ["velocity", "noise", "score"])
@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
def test_a_perfect_output_gives_back_data_noise_and_velocity(path: PathName, prediction: PredictionName) -> None:
    data, noise = torch.randn(2, 5, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    point = path_point(path, torch.tensor([0.05, 0.3, 0.5, 0.8, 0.95], dtype=torch.float64))
    x, velocity = point.noised(data, noise), point.target_velocity(data, noise)
    score = -noise / point.sigma.view(-1, 1, 1, 1)
    output = {"velocity": velocity, "noise": noise, "score": score}[prediction]
    for quantity, expected in (
        (interpolant.data, data),
        (interpolant.noise, noise),
        (interpolant.score, score),
        (interpolant.ode_drift, velocity),
    ):
        torch.testing.assert_close(quantity(point, prediction).of(x, output), expected, rtol=1e-8, atol=1e-8)


def test_vp_keeps_its_digits_near_the_data() -> None:
    t = torch.tensor([0.999, 0.99999])
    single, double = path_point("vp", t).sigma, path_point("vp", t.double()).sigma
    torch.testing.assert_close(single.double(), double, rtol=2e-6, atol=0)
