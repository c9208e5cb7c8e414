"""Golden kind 7, and the guidance part of kind 1: DiT's Gaussian diffusion against the references."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from medcli.diffusion import gaussian
from medcli.diffusion.gaussian import gaussian_tables, kept_timesteps, p_mean_variance, respace
from medcli.diffusion.guidance import combine
from medcli.diffusion.losses import dit_loss
from medcli.diffusion.steps import Predict, build_sampler
from medcli.errors import ConfigError
from medcli.settings.sampler import SamplerConfig
from tests.golden.diffusion_support import assert_close_to_largest, labelled, settings, tensors, tiny_network

LOOPS, LOOP_TENSORS = settings("diffusion/loops"), tensors("diffusion/loops")
SPACINGS = settings("diffusion/spacings")
# Our names of the reference's tables, where they differ.
OUR_TABLES = {"timestep_map": "timesteps", "posterior_log_variance_clipped": "posterior_log_variance"}


@pytest.mark.parametrize("spec", SPACINGS["spacings"])
def test_respacing_picks_the_references_timesteps(spec: str) -> None:
    assert respace(spec) == SPACINGS["spacings"][spec]


@pytest.mark.parametrize("spec", SPACINGS["invalid"])
def test_respacing_rejects_what_the_reference_rejects(spec: str) -> None:
    with pytest.raises(ConfigError):
        respace(spec)


@pytest.mark.parametrize("spec", ["full", "250", "50", "ddim50", "10"])
def test_tables_equal_the_references_in_float64(spec: str) -> None:
    tables = gaussian_tables(respace("" if spec == "full" else spec))
    prefix = f"{spec}."
    recorded = {
        k.removeprefix(prefix): v for k, v in tensors("diffusion/schedule_arrays").items() if k.startswith(prefix)
    }
    assert len(recorded) == len(fields(tables)) - 1  # log_betas is ours alone
    for name, expected in recorded.items():
        torch.testing.assert_close(getattr(tables, OUR_TABLES.get(name, name)), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("clamp", [False, True])
def test_one_step_distribution_matches_the_reference(clamp: bool) -> None:
    g = tensors("diffusion/p_mean_variance")
    tables = gaussian_tables(respace(settings("diffusion/p_mean_variance")["spacing"]))
    step = p_mean_variance(tables, g["x"], g["model_out"], g["t"], clamp=clamp)
    for name, value in {
        "mean": step.mean,
        "variance": step.variance,
        "log_variance": step.log_variance,
        "pred_xstart": step.data,
    }.items():
        torch.testing.assert_close(value, g[f"clip_{clamp}.{name}"], rtol=1e-5, atol=1e-6)
    assert torch.equal(tables.timesteps[g["t"]], g["t_seen_by_model"])


def test_noising_and_true_posterior_match_the_reference() -> None:
    g = tensors("diffusion/p_mean_variance")
    tables = gaussian_tables(respace("50"))
    noised = gaussian.q_sample(tables, g["x_start"], g["noise"], g["t"])
    torch.testing.assert_close(noised, g["q_sample"], rtol=1e-5, atol=1e-6)
    mean = gaussian.posterior_mean(tables, g["x_start"], g["x"], g["t"])
    torch.testing.assert_close(mean, g["q_posterior_mean"], rtol=1e-5, atol=1e-6)
    for ours, theirs in (
        (tables.posterior_variance, "q_posterior_variance"),
        (tables.posterior_log_variance, "q_posterior_log_variance"),
    ):
        value = gaussian.at(ours, g["t"], g["x"]).expand_as(g["x"])
        torch.testing.assert_close(value, g[theirs], rtol=1e-5, atol=1e-6)


def network_of(run: dict[str, Any]) -> Predict:
    return labelled(tiny_network("dit", LOOPS["model"], "diffusion/dit_weights"), run["y"], run["cfg_scale"])


def recorded(run: dict[str, Any], name: str) -> Tensor:
    """A run's tensor; guided runs hold a doubled batch whose first half is the result."""
    tensor = LOOP_TENSORS[f"{run['name']}.{name}"]
    return tensor.chunk(2, 0 if name == "z" else 1)[0] if run["guided"] else tensor


@pytest.mark.parametrize("run", [r for r in LOOPS["runs"] if not r["clip_denoised"]], ids=lambda run: run["name"])
def test_sampling_loops_match_the_reference(run: dict[str, Any]) -> None:
    sampler_name = "ddpm" if run["mode"] == "ancestral" else "ddim"
    config = SamplerConfig(sampler=sampler_name, steps=10, eta=run["eta"] or 0.0)
    assert kept_timesteps(config) == respace(run["spacing"])
    sampler, predict, x = build_sampler(config), network_of(run), recorded(run, "z")
    assert sampler.num_steps == sampler.num_observed == sampler.nfe == 10
    for step, expected in enumerate(recorded(run, "xs")):
        noise = recorded(run, "noise")[step] if sampler.takes_noise(step) else None
        x = sampler.step(predict, x, torch.full((len(x),), step), noise)
        assert_close_to_largest(x, expected)


def test_clamped_ancestral_loop_matches_the_reference() -> None:
    run = next(r for r in LOOPS["runs"] if r["clip_denoised"])
    tables, predict, x = gaussian_tables(respace(run["spacing"])), network_of(run), recorded(run, "z")
    for number in range(10):
        index_B = torch.full((len(x),), 9 - number)
        step = p_mean_variance(tables, x, predict(x, tables.timesteps[index_B]), index_B, clamp=True)
        assert_close_to_largest(step.data, recorded(run, "pred_xstart")[number])
        x = step.mean if number == 9 else step.mean + step.variance.sqrt() * recorded(run, "noise")[number]
        assert_close_to_largest(x, recorded(run, "xs")[number])


def test_training_loss_matches_the_reference() -> None:
    g = tensors("diffusion/training_losses")
    seen: list[Tensor] = []

    def predict(x: Tensor, t_B: Tensor) -> Tensor:
        seen.extend([x, t_B])
        return g["model_out"]

    loss = dit_loss(predict, g["x_start"], g["noise"], g["t"], tables=gaussian_tables(respace("")))
    torch.testing.assert_close(seen, [g["x_t"], g["t"]], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss.mse, g["mse"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss.vb, g["vb"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(loss.total, g["loss"], rtol=1e-4, atol=1e-6)


def test_guidance_matches_the_reference_on_three_and_on_all_channels() -> None:
    io = tensors("dit_tiny/io")
    cond, null = io["cfg.raw"].chunk(2)
    scales = [key.removeprefix("cfg.out_scale_") for key in io if key.startswith("cfg.out_scale_")]
    assert scales
    for scale in scales:
        # The reference's first half is the conditional image; its second half is dropped at the end.
        for channels, name in ((3, "cfg.out_scale_"), (None, "cfg.out_all_channels_scale_")):
            guided = combine(cond, null, float(scale), channels, latent_channels=4)
            torch.testing.assert_close(guided, io[name + scale].chunk(2)[0], rtol=1e-5, atol=1e-5)
