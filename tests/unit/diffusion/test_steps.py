from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from medcli.diffusion.gaussian import gaussian_tables, respace
from medcli.diffusion.interpolant import path_point
from medcli.diffusion.steps import Sampler, build_sampler, kept_timesteps
from medcli.errors import ConfigError
from medcli.settings.sampler import DiffusionForm, PathName, PredictionName, SamplerConfig
from tests.unit.diffusion.gaussian_data import MEAN, STD, exact_network, standard_normal

CONFIGS = {
    "euler-mean": SamplerConfig(steps=5),
    "euler-tweedie-vp": SamplerConfig(steps=5, path="vp", last_step="tweedie"),
    "euler-none": SamplerConfig(steps=5, last_step="none"),
    "heun-mean-noise": SamplerConfig(steps=5, solver="heun", prediction="noise", path="gvp"),
    "heun-none": SamplerConfig(steps=5, solver="heun", last_step="none"),
    "ode-euler": SamplerConfig(sampler="ode", steps=5),
    "ode-rk4-score": SamplerConfig(sampler="ode", solver="rk4", prediction="score", steps=5),
    "ddpm": SamplerConfig(sampler="ddpm", steps=5),
    "ddim": SamplerConfig(sampler="ddim", steps=5),
    "ddim-eta": SamplerConfig(sampler="ddim", steps=5, eta=0.7),
}


def network(x: Tensor, t: Tensor) -> Tensor:
    """Some network; DiT's twice as many channels are dropped by SiT's samplers, which never see them."""
    t = t.to(x.dtype).view(-1, 1, 1, 1)
    return 0.7 * x - torch.sin(t) + 0.05


def two_halves(x: Tensor, t: Tensor) -> Tensor:
    return torch.cat([network(x, t), torch.tanh(x)], dim=1)


def network_of(config: SamplerConfig):  # type: ignore[no-untyped-def]
    return two_halves if config.sampler in ("ddpm", "ddim") else network


def run(sampler: Sampler, predict, x: Tensor, seed: int = 1) -> Tensor:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(seed)
    for step in range(sampler.num_steps):
        noise = torch.randn(x.shape, generator=generator) if sampler.takes_noise(step) else None
        x = sampler.step(predict, x, torch.full((len(x),), step), noise, num_calls=sampler.calls(step))
    return x


ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}
"""Weights of the slopes on an even grid, the newest first."""


@pytest.mark.parametrize("order", [2, 3, 4])
def test_multistep_solvers_weigh_the_slopes_they_remember_by_age(order: int) -> None:
    sampler = build_sampler(SamplerConfig(sampler="ode", solver=f"adams{order}", steps=7))
    x = expected = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    memory, slopes = torch.zeros(2, sampler.num_remembered, 1, 2, 2), list[Tensor]()
    for step in range(7):
        slopes.insert(0, network(expected, torch.full((2,), step / 7)))
        weights = ADAMS_BASHFORTH[min(order, step + 1)]
        expected = expected + sum(weight / 7 * slope for weight, slope in zip(weights, slopes, strict=False))
        x = sampler.step(network, x, torch.full((2,), step), None, memory_BMCYX=memory)
        torch.testing.assert_close(x, expected)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_images_at_different_steps_share_a_batch_without_changing(config: SamplerConfig) -> None:
    sampler, predict = build_sampler(config), network_of(config)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 2, 3, 3, generator=generator)
    noises = torch.randn(sampler.num_steps, 3, 2, 3, 3, generator=generator)
    alone = []
    for image in range(3):
        x = start[image : image + 1]
        for step in range(sampler.num_steps):
            noise = noises[step, image : image + 1] if sampler.takes_noise(step) else None
            x = sampler.step(predict, x, torch.tensor([step]), noise, num_calls=sampler.calls(step))
        alone.append(x)
    mixed = start.clone()
    for round_number in range(sampler.num_steps + 2):  # image i joins i rounds late
        present = [i for i in range(3) if 0 <= round_number - i < sampler.num_steps]
        step_B = torch.tensor([round_number - i for i in present])
        mixed[present] = sampler.step(predict, mixed[present], step_B, noises[step_B, present])
    torch.testing.assert_close(mixed, torch.cat(alone), rtol=0, atol=0)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_step_never_looks_at_values(config: SamplerConfig) -> None:
    """On the meta device any .item(), or branch on a tensor, is an error."""
    sampler = build_sampler(config, device="meta")
    x = torch.empty(4, 2, 3, 3, device="meta")
    step_B = torch.empty(4, dtype=torch.int64, device="meta")
    assert sampler.step(network_of(config), x, step_B, x).shape == x.shape


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_counted_calls_are_the_calls_made(config: SamplerConfig) -> None:
    sampler, calls = build_sampler(config), 0

    def counting(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return network_of(config)(x, t)

    run(sampler, counting, torch.ones(2, 2, 3, 3))
    assert calls == sampler.nfe == sum(sampler.calls(step) for step in range(sampler.num_steps))


def test_step_counts_of_each_sampler() -> None:
    counts = {
        name: (s.num_steps, s.num_observed, s.nfe, sum(map(s.takes_noise, range(s.num_steps))), s.noisy)
        for name, s in ((name, build_sampler(config)) for name, config in CONFIGS.items())
    }
    assert counts == {
        "euler-mean": (5, 4, 5, 4, True),
        "euler-tweedie-vp": (5, 4, 5, 4, True),
        "euler-none": (4, 4, 4, 4, True),
        "heun-mean-noise": (5, 4, 9, 4, True),
        "heun-none": (4, 4, 7, 4, True),  # the step into t = 1 has no corrector
        "ode-euler": (4, 4, 4, 0, False),
        "ode-rk4-score": (4, 4, 16, 0, False),
        "ddpm": (5, 5, 5, 4, True),
        "ddim": (5, 5, 5, 0, False),
        "ddim-eta": (5, 5, 5, 4, True),
    }


def test_network_sees_float_time_for_sit_and_original_timesteps_for_dit() -> None:
    seen: list[Tensor] = []

    def recording(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return two_halves(x, t)[:, : 4 if t.dtype == torch.int64 else 2]

    run(build_sampler(SamplerConfig(sampler="ode", steps=3)), recording, torch.ones(1, 2, 3, 3))
    assert [(t.dtype, t.tolist()) for t in seen] == [(torch.float32, [0.0]), (torch.float32, [0.5])]
    seen.clear()
    run(build_sampler(SamplerConfig(sampler="ddpm", steps=3)), recording, torch.ones(1, 2, 3, 3))
    assert [(t.dtype, t.tolist()) for t in seen] == [(torch.int64, [v]) for v in (999, 500, 0)]


def test_states_stay_float32_when_the_network_answers_in_bf16() -> None:
    for config in (SamplerConfig(steps=3), SamplerConfig(sampler="ddpm", steps=3)):
        predict = network_of(config)
        x = run(build_sampler(config), lambda x, t, predict=predict: predict(x, t).bfloat16(), torch.ones(1, 2, 3, 3))
        assert x.dtype == torch.float32


@pytest.mark.parametrize("form", ["sigma", "linear", "sbdm", "decreasing", "increasing-decreasing", "constant"])
@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
def test_every_diffusion_form_samples_the_right_distribution(path: PathName, form: DiffusionForm) -> None:
    # A small last step: over 0.04 its missing noise shows where the form still injects some there.
    config = SamplerConfig(steps=400, path=path, diffusion_form=form, last_step="euler", last_step_size=0.01)
    x = run(build_sampler(config), exact_network(path, "velocity"), standard_normal(4000))
    assert x.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert x.std().item() == pytest.approx(STD, abs=0.03)


@pytest.mark.parametrize("last_step", ["mean", "tweedie", "euler", "none"])
@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("prediction", ["velocity", "noise", "score"])
def test_every_prediction_and_last_step_samples_the_right_distribution(
    prediction: PredictionName, solver: str, last_step: str
) -> None:
    config = SamplerConfig(steps=200, prediction=prediction, solver=solver, last_step=last_step)  # type: ignore[arg-type]
    x = run(build_sampler(config), exact_network("linear", prediction), standard_normal(4000))
    assert x.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert x.std().item() == pytest.approx(STD, abs=0.03)


ORDERS = {"euler": 1, "heun": 2, "midpoint": 2, "heun3": 3, "rk4": 4}


@pytest.mark.parametrize("solver", ORDERS)
@pytest.mark.parametrize("path", ["linear", "gvp"])
def test_ode_solvers_converge_at_their_order(solver: str, path: PathName) -> None:
    z = torch.linspace(-2, 2, 9).view(-1, 1, 1, 1)
    errors = []
    for steps in (6, 11) if solver == "rk4" else (9, 17):  # intervals double; more would drown rk4 in rounding
        sampler = build_sampler(SamplerConfig(sampler="ode", solver=solver, path=path, steps=steps))
        x = run(sampler, exact_network(path, "velocity"), z)
        errors.append((x - (MEAN + STD * z)).abs().max().item())  # the ODE keeps each quantile
    assert errors[0] / errors[1] > 2 ** (ORDERS[solver] - 0.5)


def test_reverse_ode_undoes_the_forward_one() -> None:
    config = SamplerConfig(sampler="ode", solver="rk4", steps=40, path="vp")
    predict, z = exact_network("vp", "velocity"), torch.linspace(-2, 2, 9).view(-1, 1, 1, 1)
    there = run(build_sampler(config), predict, z)
    back = run(build_sampler(config, reverse=True), predict, there)
    torch.testing.assert_close(back, z, rtol=1e-4, atol=1e-4)


def test_ddpm_and_ddim_sample_the_right_distribution() -> None:
    tables = gaussian_tables(respace(""))

    def exact(x: Tensor, t: Tensor) -> Tensor:
        abar = tables.alphas_cumprod[t].view(-1, 1, 1, 1)
        noise = (1 - abar).sqrt() * (x - abar.sqrt() * MEAN) / (abar * STD**2 + 1 - abar)
        return torch.cat([noise.float(), torch.zeros_like(x)], dim=1)

    for config in (
        SamplerConfig(sampler="ddpm", steps=250),
        SamplerConfig(sampler="ddim", steps=250),
        SamplerConfig(sampler="ddim", steps=250, eta=1.0),
    ):
        x = run(build_sampler(config), exact, standard_normal(4000))
        assert x.mean().item() == pytest.approx(MEAN, abs=0.03)
        assert x.std().item() == pytest.approx(STD, abs=0.03)


def test_every_setting_gives_finite_numbers() -> None:
    choices = itertools.product(
        ["euler", "heun"],
        ["linear", "gvp", "vp"],
        ["velocity", "noise", "score"],
        ["sigma", "linear", "sbdm", "decreasing", "increasing-decreasing", "constant"],
        [("mean", 0.04), ("tweedie", 0.04), ("euler", 0.04), ("none", 0.0), ("mean", 0.0), ("tweedie", 0.0)],
    )
    for solver, path, prediction, form, (last_step, size) in choices:
        config = SamplerConfig(
            steps=4,
            solver=solver,
            path=path,  # type: ignore[arg-type]
            prediction=prediction,  # type: ignore[arg-type]
            diffusion_form=form,  # type: ignore[arg-type]
            last_step=last_step,  # type: ignore[arg-type]
            last_step_size=size,
        )
        x = run(build_sampler(config), network, torch.ones(1, 1, 2, 2))
        assert torch.isfinite(x).all(), config


def test_heun_into_the_singular_end_equals_the_reference_up_to_its_last_predictor() -> None:
    """SiT evaluates Heun's last corrector at t = 1 and returns infinities; the steps before are the same."""
    sampler = build_sampler(SamplerConfig(steps=4, solver="heun", last_step="none"))
    x, step_B = torch.ones(1, 1, 2, 2), torch.tensor([2])
    noise = torch.full_like(x, 0.3)
    t, dt = torch.tensor([2 / 3]), 1 / 3
    noised = x + (2 * (1 - t) * dt).sqrt() * noise
    output = network(noised, t)
    score = (t * output - noised) / (1 - t)
    expected = noised + dt * (output + (1 - t) * score)
    torch.testing.assert_close(sampler.step(network, x, step_B, noise), expected, rtol=1e-5, atol=1e-6)


def test_last_step_of_size_zero_is_no_step_except_tweedies_jump() -> None:
    for last_step in ("mean", "euler"):
        assert build_sampler(SamplerConfig(steps=4, last_step=last_step, last_step_size=0.0)).num_steps == 3
    tweedie = SamplerConfig(steps=4, last_step="tweedie", last_step_size=0.0, prediction="noise")
    sampler = build_sampler(tweedie)
    assert sampler.num_steps == 4
    t = torch.tensor([1 - 1e-3])
    point, x = path_point("linear", t), torch.ones(1, 1, 2, 2)
    expected = (x - point.sigma * network(x, t)) / point.alpha
    torch.testing.assert_close(sampler.step(network, x, torch.tensor([3]), None), expected, rtol=1e-4, atol=1e-5)


def test_ddim_falls_back_to_even_spacing_where_no_stride_fits() -> None:
    assert kept_timesteps(SamplerConfig(sampler="ddim", steps=50)) == respace("ddim50")
    assert kept_timesteps(SamplerConfig(sampler="ddim", steps=49)) == respace("49")


@pytest.mark.parametrize(
    ("config", "reverse"),
    [
        (SamplerConfig(sampler="ode", solver="dopri5"), False),
        (SamplerConfig(), True),
        (SamplerConfig(sampler="ddpm", steps=1001), False),
        (SamplerConfig(sampler="ddim", steps=1001), False),
        (SamplerConfig(prediction="noise", last_step_size=0.9995), False),
    ],
)
def test_impossible_samplers_are_refused(config: SamplerConfig, reverse: bool) -> None:
    with pytest.raises(ConfigError):
        build_sampler(config, reverse=reverse)
