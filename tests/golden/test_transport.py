"""Golden kind 5: SiT transport against the references (settings and origin: shared golden README, section 5)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from medcli.diffusion import interpolant
from medcli.diffusion.adaptive import integrate_adaptive, ode_field, solve
from medcli.diffusion.interpolant import path_point
from medcli.diffusion.intervals import margins, ode_interval, sde_interval, training_interval
from medcli.diffusion.losses import sit_loss
from medcli.diffusion.steps import Predict, Sampler, build_sampler
from medcli.settings.sampler import SamplerConfig
from tests.golden.diffusion_support import (
    CallCounter,
    assert_close_to_largest,
    labelled,
    settings,
    stub,
    tensors,
    tiny_network,
)

PATHS = ("Linear", "GVP", "VP")
PREDICTIONS = ("velocity", "noise", "score")
FORMS = ("SBDM", "sigma", "linear", "decreasing", "increasing-decreasing", "constant")

SDE, ODE = settings("transport/sde_runs"), settings("transport/ode_runs")
SDE_TENSORS, ODE_TENSORS = tensors("transport/sde_runs"), tensors("transport/ode_runs")
COEFFICIENTS = tensors("transport/coefficients")
OUR_SOLVERS = {"heun2": "heun"}


def network_of(run: dict[str, Any]) -> Predict:
    if run["model"] == "stub":
        return stub(run["prediction"])
    return labelled(tiny_network("sit", SDE["model"], "transport/sit_weights"), run["y"], run.get("cfg_scale"))


def images_of(run: dict[str, Any], tensor: Tensor, axis: int = 0) -> Tensor:
    """Guided runs hold a doubled batch whose first half is the result; ours has no second half."""
    return tensor.chunk(2, axis)[0] if "cfg_scale" in run else tensor


def trajectory(sampler: Sampler, predict: Predict, z: Tensor, noises: Tensor | None = None) -> list[Tensor]:
    x, states = z, []
    for step in range(sampler.num_steps):
        noise = noises[step] if noises is not None and sampler.takes_noise(step) else None
        x = sampler.step(predict, x, torch.full((len(x),), step), noise, num_calls=sampler.calls(step))
        states.append(x)
    return states


@pytest.mark.parametrize("path", PATHS)
def test_path_functions_match_the_reference(path: str) -> None:
    c = COEFFICIENTS
    point = path_point(path.lower(), c["t"])
    for name in ("alpha", "d_alpha", "sigma", "d_sigma"):
        torch.testing.assert_close(getattr(point, name), c[f"{path}.{name}"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(point.rate, c[f"{path}.d_alpha_over_alpha"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(point.variance, c[f"{path}.compute_drift_var"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(point.noised(c["x1"], c["x0"]), c[f"{path}.xt"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(point.target_velocity(c["x1"], c["x0"]), c[f"{path}.ut"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", [0.6, 1.0])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", PATHS)
def test_every_diffusion_form_matches_the_reference_formula(path: str, form: str, norm: float) -> None:
    """Includes the two forms whose formula the references hold but cannot sample with."""
    point = path_point(path.lower(), COEFFICIENTS["t"])
    expected = COEFFICIENTS[f"{path}.diffusion.{form}.norm_{norm}"]
    actual = interpolant.diffusion_of(point, form.lower(), norm)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS)
def test_drift_and_score_of_each_prediction_match_the_reference(path: str, prediction: str) -> None:
    c = COEFFICIENTS
    point, x, output = path_point(path.lower(), c["t"]), c["x"], c["model_out"]
    drift = interpolant.ode_drift(point, prediction).of(x, output)
    torch.testing.assert_close(drift, c[f"{path}.{prediction}.ode_drift"], rtol=1e-4, atol=1e-5)
    score = interpolant.score(point, prediction).of(x, output)
    torch.testing.assert_close(score, c[f"{path}.{prediction}.score"], rtol=1e-4, atol=1e-5)
    for form in ("SBDM", "linear", "sigma"):
        diffusion = interpolant.diffusion_of(point, form.lower(), 0.6)
        drift = interpolant.sde_drift(point, prediction, diffusion).of(x, output)
        torch.testing.assert_close(drift, c[f"{path}.{prediction}.sde_drift.{form}.norm_0.6"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", PATHS)
def test_conversions_between_predictions_match_the_reference(path: str) -> None:
    c = COEFFICIENTS
    point, x, output = path_point(path.lower(), c["t"]), c["x"], c["model_out"]
    noise = interpolant.noise(point, "velocity").of(x, output)
    torch.testing.assert_close(noise, c[f"{path}.noise_from_velocity"], rtol=1e-4, atol=1e-5)
    score = interpolant.score(point, "velocity").of(x, output)
    torch.testing.assert_close(score, c[f"{path}.score_from_velocity"], rtol=1e-4, atol=1e-5)
    velocity = interpolant.ode_drift(point, "score").of(x, output)
    torch.testing.assert_close(velocity, c[f"{path}.velocity_from_score"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", settings("transport/intervals"), ids=lambda c: f"{c['path']}-{c['prediction']}")
def test_time_intervals_match_the_reference(case: dict[str, Any]) -> None:
    path, prediction, eps = case["path"].lower(), case["prediction"], case["arg_sample_eps"]
    train = training_interval(path, prediction, train_eps=case["arg_train_eps"])
    assert train == pytest.approx(case["train"])
    ode = ode_interval(path, prediction, sample_eps=eps)
    assert ode == pytest.approx(case["ode"])
    if path != "vp":
        # The reference mirrors the interval instead of running it backwards. On the VP path, the one that is not
        # symmetric, it thereby starts at t = 1, where sigma is 0; ours keeps its margin at the data end.
        assert ode[::-1] == pytest.approx(case["ode_reverse"])
    for form in ("SBDM", "sigma"):
        for size in (0.0, 0.04):
            start, end = sde_interval(path, prediction, form=form.lower(), last_step_size=size, sample_eps=eps)
            expected_start, expected_end = case[f"sde_{form}_last_{size}"]
            if form == "SBDM" and prediction == "velocity" and path != "vp":
                # The reference starts SBDM at t = 0, where it is infinite, and returns NaN; we start a margin later.
                expected_start = 1e-3 if eps is None else eps
            assert (start, end) == pytest.approx((expected_start, expected_end))


@pytest.mark.parametrize("case", settings("transport/eps_rules"), ids=lambda c: f"{c['path']}-{c['prediction']}")
def test_margins_fall_back_one_by_one(case: dict[str, Any]) -> None:
    """Equal to SiT's wherever the user gave both values or none; SiT loses one value when only the other is given."""
    given_train, given_sample = case["arg_train_eps"], case["arg_sample_eps"]
    ours = margins(case["path"].lower(), case["prediction"], train_eps=given_train, sample_eps=given_sample)
    assert ours.train == case["sit"]["train_eps"]
    if (given_train is None) == (given_sample is None) or ours.sample == 0:
        assert ours.sample == case["sit"]["sample_eps"]
    else:
        assert ours.sample == (1e-3 if given_sample is None else given_sample)


@pytest.mark.parametrize("run", SDE["runs"], ids=lambda run: run["name"])
def test_sde_trajectories_match_the_reference_with_one_call_per_euler_step(run: dict[str, Any]) -> None:
    name, kw = run["name"], run["kw"]
    config = SamplerConfig(
        sampler="sde",
        solver=kw["sampling_method"].lower(),
        steps=kw["num_steps"],
        path=run["path"].lower(),
        prediction=run["prediction"],
        diffusion_form=kw["diffusion_form"].lower(),
        diffusion_norm=kw["diffusion_norm"],
        last_step=(kw["last_step"] or "none").lower(),
        last_step_size=kw["last_step_size"],
    )
    sampler = build_sampler(config, sample_eps=run["eps"][1] if "eps" in run else None)
    predict = CallCounter(network_of(run))
    noises = images_of(run, SDE_TENSORS[f"{name}.noise"], 1)
    states = trajectory(sampler, predict, images_of(run, SDE_TENSORS[f"{name}.z"]), noises)
    if kw["last_step"] is None:
        states.append(states[-1])  # the reference lists the unchanged state once more
    expected = images_of(run, SDE_TENSORS[f"{name}.xs"], 1)
    assert sampler.num_observed == len(expected) - 1
    for actual_state, expected_state in zip(states, expected, strict=True):
        assert_close_to_largest(actual_state, expected_state)
    per_step = 2 if config.solver == "heun" else 1
    assert predict.calls == sampler.nfe == 9 * per_step + (kw["last_step"] is not None)
    assert predict.calls < run["reference_model_calls"]


def ode_config(run: dict[str, Any]) -> SamplerConfig:
    kw = run["kw"]
    return SamplerConfig(
        sampler="ode",
        solver=OUR_SOLVERS.get(kw["sampling_method"], kw["sampling_method"]),
        steps=kw["num_steps"],
        path=run["path"].lower(),
        prediction=run["prediction"],
    )


FIXED_RUNS = [run for run in ODE["runs"] if run["kw"]["sampling_method"] != "dopri5"]
ADAPTIVE_RUNS = [run for run in ODE["runs"] if run["kw"]["sampling_method"] == "dopri5"]


@pytest.mark.parametrize("run", FIXED_RUNS, ids=lambda run: f"{run['name']}-{run['kw']['sampling_method']}")
def test_fixed_step_ode_matches_the_reference(run: dict[str, Any]) -> None:
    sampler = build_sampler(ode_config(run), reverse=run["kw"].get("reverse", False))
    predict = CallCounter(network_of(run))
    states = trajectory(sampler, predict, images_of(run, ODE_TENSORS[f"{run['name']}.z"]))
    expected = images_of(run, ODE_TENSORS[f"{run['name']}.xs"], 1)[1:]  # without the initial state
    for actual_state, expected_state in zip(states, expected, strict=True):
        assert_close_to_largest(actual_state, expected_state)
    assert predict.calls == sampler.nfe == run["reference_model_calls"]


@pytest.mark.parametrize("run", ADAPTIVE_RUNS, ids=lambda run: run["name"])
def test_dopri5_matches_the_reference_and_its_call_count(run: dict[str, Any]) -> None:
    predict, config = CallCounter(network_of(run)), ode_config(run)
    kw, z = run["kw"], ODE_TENSORS[f"{run['name']}.z"]
    end = integrate_adaptive(predict, z, config, atol=kw["atol"], rtol=kw["rtol"])
    assert predict.calls == run["reference_model_calls"]
    if run.get("endpoint_only"):
        torch.testing.assert_close(end, ODE_TENSORS[f"{run['name']}.x_end"], rtol=1e-4, atol=1e-4)
        return
    expected = ODE_TENSORS[f"{run['name']}.xs"]
    torch.testing.assert_close(end, expected[-1], rtol=1e-4, atol=1e-4)
    field = ode_field(predict, config)
    states = solve(field, z, config, num_points=len(expected), reverse=False, atol=kw["atol"], rtol=kw["rtol"])
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weighting", ["None", "velocity", "likelihood"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS)
def test_training_losses_match_the_reference(path: str, prediction: str, weighting: str) -> None:
    recorded, prefix = tensors("transport/training_losses"), f"{path}.{prediction}.{weighting}"
    output, x0, t = (recorded[f"{prefix}.{name}"] for name in ("pred", "x0", "t"))
    seen: list[Tensor] = []

    def predict(x: Tensor, t_B: Tensor) -> Tensor:
        seen.extend([x, t_B])
        return output

    loss = sit_loss(
        predict, recorded["x1"], x0, t, path=path.lower(), prediction=prediction, weighting=weighting.lower()
    )
    torch.testing.assert_close(loss, recorded[f"{prefix}.loss"], rtol=1e-4, atol=1e-5)
    expected_x = path_point(path.lower(), t).noised(recorded["x1"], x0)
    torch.testing.assert_close(seen, [expected_x, t], rtol=0, atol=0)


def test_training_losses_record_our_training_intervals() -> None:
    for name, case in settings("transport/losses_and_likelihood")["losses"].items():
        path, prediction, _ = name.split(".")
        assert training_interval(path.lower(), prediction) == pytest.approx(case["interval"])
