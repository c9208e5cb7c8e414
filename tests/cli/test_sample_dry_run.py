"""`medcli sample --dry-run`: what a run costs, and nothing written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import medcli
from medcli.runtime.reporting import Silent
from medcli.runtime.timing import Clock
from medcli.settings.network import NetworkSource
from medcli.settings.sampling import SampleRequest
from medcli.workflows.sample.dry_run import plan_sample
from tests.conftest import RunCli
from tests.unit.engine.tiny import PIXELS, save

QUICK = ("tiny.safetensors", "--steps", "12", "--num-images", "3", "--device", "cpu")


@pytest.fixture(autouse=True)
def checkpoint(empty_folder: Path) -> Path:
    return save(empty_folder / "tiny.safetensors")


def plan_of(run_cli: RunCli, *argv: str) -> dict[str, Any]:
    result = run_cli("sample", *QUICK, *argv, "--dry-run", "--json")
    assert result.code == 0, result.err
    plan: dict[str, Any] = json.loads(result.out)
    return plan


@pytest.mark.parametrize(
    "flags",
    [
        ("--schedule", "full"),
        ("--schedule", "static", "--mediators", "4"),
        ("--sampler", "ode", "--schedule", "timed", "--at", "0.3,0.6", "--cfg-interval", "0,0.5"),
    ],
)
def test_the_cost_of_a_run_is_known_before_it(run_cli: RunCli, flags: tuple[str, ...]) -> None:
    plan = plan_of(run_cli, *flags)
    report = json.loads(run_cli("sample", *QUICK, *flags, "--json").out)
    assert plan["nfe"] == report["nfe"]
    assert plan["gmacs_per_image_min"] == plan["gmacs_per_image_max"] == pytest.approx(report["gmacs_per_image"])
    assert plan["gmacs_dense"] == pytest.approx(report["gmacs_dense"])
    assert plan["output"] == report["output"]
    again = plan_of(run_cli, *flags)
    assert (again["num_missing"], again["disk_bytes"], again["seconds_max"]) == (0, 0, 0)


def test_bounds_of_a_dynamic_run_hold(run_cli: RunCli) -> None:
    flags = ("--schedule", "dynamic", "--rho", "0.98,0.9")
    plan = plan_of(run_cli, *flags)
    report = json.loads(run_cli("sample", *QUICK, *flags, "--json").out)
    assert plan["gmacs_per_image_min"] <= report["gmacs_per_image"] <= plan["gmacs_per_image_max"]
    assert plan["seconds_min"] <= plan["seconds_max"]


def test_nothing_is_written(run_cli: RunCli, empty_folder: Path) -> None:
    result = run_cli("sample", *QUICK, "-n", "--npz", "--save-plan", "p.json")
    assert result.code == 0, result.err
    assert "3 missing of 3" in result.out
    assert "bounds: " in result.out
    assert "bounds: " not in run_cli("sample", *QUICK, "-n", "--schedule", "full").out
    assert [path.name for path in empty_folder.iterdir()] == ["tiny.safetensors"]


def test_a_missing_autoencoder_is_warned_of(
    run_cli: RunCli, monkeypatch: pytest.MonkeyPatch, empty_folder: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(empty_folder))
    config = medcli.ModelConfig(family="sit", hidden_size=24, depth=1, num_heads=2, latent_size=4, num_classes=3)
    medcli.save(medcli.new(config), "latent.safetensors")
    result = run_cli("sample", "latent.safetensors", "--steps", "2", "--num-images", "1", "--dry-run")
    assert result.code == 0, result.err
    assert "warning: the autoencoder stabilityai/sd-vae-ft-ema is not on this machine" in result.err
    assert "warning" not in run_cli("sample", *QUICK, "--dry-run").err


def test_an_adaptive_solver_leaves_the_cost_open(run_cli: RunCli) -> None:
    plan = plan_of(run_cli, "--sampler", "ode", "--solver", "dopri5", "--schedule", "full")
    assert (plan["nfe"], plan["seconds_max"], plan["gmacs_per_image_min"]) == (None, None, None)
    assert plan["disk_bytes"] > 0


def test_time_is_that_of_a_call_scaled_to_the_run() -> None:
    ticks = iter(range(100))
    clock = Clock(name="ticks", now=lambda: 0.0, wall=lambda: float(next(ticks)), synchronize=lambda: None)
    request = SampleRequest(
        network=NetworkSource(checkpoint="tiny.safetensors"),
        schedule="full",
        steps=12,
        num_images=30,
        batch_size=10,
        cfg_scale=1.5,
    )
    plan = plan_sample(request, Silent(), clock=clock)
    # A call of ten guided images takes one second; 12 calls an image.
    assert plan.seconds_max == pytest.approx(30 * 12 / 10)
    assert plan.gmacs_dense == pytest.approx(2 * 12 * medcli.count_macs(PIXELS, num_mediators=0) / 1e9)
