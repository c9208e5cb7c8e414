from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medcli.diffusion.gaussian import gaussian_tables, respace
from medcli.diffusion.interpolant import path_point
from medcli.diffusion.losses import Teacher, discretised_log_likelihood, dit_loss, normal_cdf, sit_loss
from medcli.diffusion.steps import Predict
from medcli.settings.sampler import PredictionName

TABLES = gaussian_tables(respace(""))


def random_batch() -> tuple[Tensor, Tensor]:
    data, noise = torch.randn(2, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    return data, noise


@pytest.mark.parametrize("weighting", ["none", "velocity", "likelihood"])
@pytest.mark.parametrize("prediction", ["velocity", "noise", "score"])
def test_a_perfect_sit_network_has_no_loss(prediction: PredictionName, weighting: str) -> None:
    data, noise = random_batch()
    t = torch.tensor([0.1, 0.4, 0.6, 0.9])
    point = path_point("gvp", t)
    answers = {
        "velocity": point.target_velocity(data, noise),
        "noise": noise,
        "score": -noise / point.sigma.view(-1, 1, 1, 1),
    }
    loss = sit_loss(
        lambda x, t: answers[prediction],
        data,
        noise,
        t,
        path="gvp",
        prediction=prediction,
        weighting=weighting,  # type: ignore[arg-type]
    )
    torch.testing.assert_close(loss, torch.zeros(4), rtol=0, atol=1e-9)


def test_losses_are_per_image() -> None:
    data, noise = random_batch()
    t = torch.tensor([0.1, 0.4, 0.6, 0.9])
    whole = sit_loss(lambda x, t: torch.tanh(x), data, noise, t)
    alone = sit_loss(lambda x, t: torch.tanh(x), data[2:3], noise[2:3], t[2:3])
    torch.testing.assert_close(whole[2:3], alone)


def test_the_bound_trains_the_variance_and_only_the_variance() -> None:
    data, noise = random_batch()
    output = torch.zeros(4, 4, 3, 3, requires_grad=True)
    loss = dit_loss(lambda x, t: output, data, noise, torch.tensor([0, 1, 500, 999]), tables=TABLES)
    (gradient,) = torch.autograd.grad(loss.vb.sum(), output)
    assert torch.equal(gradient[:, :2], torch.zeros(4, 2, 3, 3))
    assert (gradient[:, 2:].flatten(1).abs().sum(1) > 0).all()


def test_without_variance_channels_there_is_only_the_squared_error() -> None:
    data, noise = random_batch()
    loss = dit_loss(lambda x, t: torch.zeros_like(x), data, noise, torch.tensor([0, 1, 500, 999]), tables=TABLES)
    torch.testing.assert_close(loss.total, (noise**2).flatten(1).mean(1))


def test_level_probabilities_sum_to_one() -> None:
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean, scale in ((0.0, 0.3), (-0.97, 0.05), (0.9, 1.0)):
        log_p = discretised_log_likelihood(levels, torch.tensor(mean).double(), torch.tensor(math.log(scale)).double())
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-9)


def test_normal_cdf_is_close_to_the_exact_one() -> None:
    z = torch.linspace(-4, 4, 101)
    torch.testing.assert_close(normal_cdf(z), torch.special.ndtr(z), rtol=0, atol=5e-4)


def test_the_teachers_weight_is_that_of_the_error_against_it() -> None:
    data, noise = random_batch()
    student: Predict = lambda x, t: 0.3 * x  # noqa: E731
    teacher = Teacher(lambda x, t: torch.ones_like(x), 0.25)
    step_B, time_B = torch.tensor([10, 300, 600, 990]), torch.tensor([0.1, 0.4, 0.6, 0.9])
    dit = dit_loss(student, data, noise, step_B, tables=TABLES, teacher=teacher)
    sit = sit_loss(student, data, noise, time_B, teacher=teacher)
    state = path_point("linear", time_B).noised(data, noise)
    noisy = TABLES.alphas_cumprod[step_B].sqrt().view(-1, 1, 1, 1) * data
    noisy = noisy + (1 - TABLES.alphas_cumprod[step_B]).sqrt().view(-1, 1, 1, 1) * noise
    for loss_B, x, target in ((dit.total, noisy, noise), (sit, state, data - noise)):
        to_data, to_teacher = ((0.3 * x - other).square().flatten(1).mean(1) for other in (target, torch.ones_like(x)))
        torch.testing.assert_close(loss_B.float(), (0.75 * to_data + 0.25 * to_teacher).float(), rtol=1e-4, atol=1e-6)
