"""`medcli sample` and `medcli flops`: wishes that would change nothing, and words that mean nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medcli.errors import ExitCode
from medcli.runtime import precision
from medcli.settings.declare import settings_of
from medcli.settings.sampling import SampleRequest
from tests.cli.test_sample import refused
from tests.conftest import Result, RunCli
from tests.unit.engine.tiny import PIXELS, save

Sample = Callable[..., Result]

IDLE: tuple[tuple[str, str, str], ...] = (
    ("--warmup-steps 5", "--schedule static", "--schedule dynamic"),
    ("--warmup-steps 5", "--schedule full", "--schedule dynamic"),
    ("--distance l2", "--schedule full", "--schedule dynamic"),
    ("--rho 0.3,0.1", "--schedule static", "--schedule dynamic"),
    ("--diffusion-form sigma", "--sampler ode", "--sampler sde"),
    ("--diffusion-norm 2", "--sampler ode", "--sampler sde"),
    ("--last-step-size 0.1", "--sampler ode", "--sampler sde"),
    ("--last-step-size 0.1", "--last-step none", "--last-step mean"),
    ("--cfg-interval 0,0.5", "--cfg-scale 1", "other than 1"),
    ("--cfg-channels all", "--cfg-scale 1", "other than 1"),
    ("--cfg-power 0", "--cfg-scale 1", "other than 1"),
)


@pytest.fixture
def sample(run_cli: RunCli, empty_folder: Path) -> Sample:
    """`medcli sample tiny.safetensors` with few steps."""
    checkpoint = save(empty_folder / "tiny.safetensors")
    return lambda *argv: run_cli("sample", checkpoint, "--steps", "6", "--num-images", "2", "--device", "cpu", *argv)


@pytest.mark.parametrize(("idle", "choice", "way_out"), IDLE)
def test_a_flag_that_would_do_nothing_is_refused_with_what_makes_it_idle(
    sample: Sample, idle: str, choice: str, way_out: str
) -> None:
    result = sample(*idle.split(), *choice.split())
    flag = idle.split()[0]
    refused(result, ExitCode.USAGE, f"{flag} does nothing with {choice}\n", f"leave {flag} out", way_out)
    assert not Path("samples").exists()


def test_a_last_step_of_the_ode_is_eulers_after_heun(sample: Sample) -> None:
    ode = ("--schedule", "full", "--sampler", "ode", "--steps", "3")
    result = sample(*ode, "--solver", "heun", "--last-step", "mean")
    words = "--last-step mean does nothing with --sampler ode --solver heun\n"
    refused(result, ExitCode.USAGE, words, "--last-step euler ends Heun")
    refused(sample(*ode, "--solver", "adams3", "--last-step", "euler"), ExitCode.USAGE, "--last-step does nothing")
    assert sample(*ode, "--solver", "heun", "--last-step", "euler").code == 0


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("idle", ["--path gvp", "--prediction noise", "--last-step none"])
def test_flags_of_transport_mean_nothing_to_a_dit(run_cli: RunCli, empty_folder: Path, sampler: str, idle: str) -> None:
    save(empty_folder / "dit.safetensors", replace(PIXELS, family="dit", learn_sigma=True))
    result = run_cli("sample", "dit.safetensors", "--sampler", sampler, *idle.split())
    refused(result, ExitCode.USAGE, f"does nothing with --sampler {sampler}")


def test_a_choice_nobody_made_is_called_the_default(run_cli: RunCli, empty_folder: Path) -> None:
    save(empty_folder / "dit.safetensors", replace(PIXELS, family="dit", learn_sigma=True))
    refused(run_cli("sample", "dit.safetensors", "--path", "vp"), 2, "with the default --sampler ddpm")
    refused(run_cli("sample", "digits", "--cfg-channels", "all"), 2, "with the default --cfg-scale 1\n")


def test_the_same_flags_are_used_where_they_mean_something(sample: Sample) -> None:
    sde = "--schedule dynamic --warmup-steps 1 --distance l2 --rho 0.3,0.1 --cfg-scale 2 --cfg-interval 0,0.5"
    sde += " --cfg-channels all --solver heun --path gvp --prediction velocity --diffusion-form sigma"
    sde += " --diffusion-norm 0.5 --last-step euler --last-step-size 0.1 --cfg-power 0"
    assert sample(*sde.split(), "--json").code == 0
    assert sample("--sampler", "ode", "--path", "gvp", "--solver", "rk4", "--schedule", "full", "-o", "ode").code == 0
    timed = "--schedule timed --at 0.3,0.6 --sampler ode --time-shift 0.5"
    assert sample(*timed.split(), "-o", "timed").code == 0
    every = {made.flag for made in settings_of(SampleRequest).values() if made.needs}
    assert every - {"--amm-blocks", "--amm-form", "--grid"} <= {*sde.split(), *timed.split()}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--schedule static --rho 0.3,0.1", "--rho does nothing with --schedule static"),
        ("--schedule full --warmup-steps 2", "--warmup-steps does nothing with --schedule full"),
        ("DiT-S/2 --sampler ddpm --solver euler", "--solver does nothing with --sampler ddpm"),
    ],
)
def test_flops_follows_the_same_rule(run_cli: RunCli, argv: str, words: str) -> None:
    refused(run_cli("flops", *argv.split()), ExitCode.USAGE, words)


def test_steps_of_an_adaptive_solver_are_remarked_on(sample: Sample) -> None:
    adaptive = ("--sampler", "ode", "--solver", "dopri5", "--schedule", "full")
    assert "--steps does nothing with --solver dopri5" in sample(*adaptive).err
    assert "--steps" not in sample("--schedule", "full", "-o", "fixed").err


@pytest.mark.parametrize("command", ["sample", "demo", "convert x.pt"])
@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_output_does_not_mean_the_folder_one_is_in(
    run_cli: RunCli, empty_folder: Path, command: str, name: str
) -> None:
    refused(run_cli(*command.split(), "-o", name), ExitCode.USAGE, "--output is empty")
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize("scale", ["nan", "inf", "-inf", "-1"])
def test_a_guidance_scale_that_is_no_scale_is_answered_with_one(sample: Sample, scale: str) -> None:
    refused(sample("--cfg-scale", scale), ExitCode.USAGE, "--cfg-scale must be", "--cfg-scale 1.5")


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("toaster", ExitCode.USAGE, "unknown device"),
        ("xpu", ExitCode.USAGE, "unknown device"),
        ("cuda:x", ExitCode.USAGE, "unknown device"),
        ("cuda:99", ExitCode.ENVIRONMENT, "not available"),
    ],
)
def test_an_unknown_device_is_a_mistake_and_a_missing_one_the_machines_fault(
    run_cli: RunCli, empty_folder: Path, name: str, code: ExitCode, words: str
) -> None:
    for command in ("sample", "demo"):
        refused(run_cli(command, "--device", name), code, words)
    assert list(empty_folder.iterdir()) == []


def test_bf16_where_it_is_slow_is_remarked_on_once(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    bf16 = ("--dtype", "bf16", "--schedule", "full")
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: False)
    first = sample(*bf16)
    assert first.code == 0
    assert first.err.count("--dtype fp32") == 1
    assert "--dtype" not in sample(*bf16).err  # there is nothing left to make
    assert "--dtype" not in sample(*bf16, "-q", "-o", "quiet").err
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: True)
    assert "--dtype" not in sample(*bf16, "-o", "fast").err


@pytest.mark.parametrize(
    "wrong",
    [
        {"sampler": "foo"},
        {"sampler": "ddpm"},
        {"steps": "many"},
        {"steps": True},
        {"steps": 1},
        {"solver": []},
        {"rho": 0.3},
        {"rho": [0.3]},
        {"rho": [0.1, 0.3]},
        {"rho": ["a", "b"]},
        {"warmup_steps": 0},
        {"distance": "l3"},
        {"schedule": "sometimes"},
        {"cfg_scale": "much"},
        {"cfg_scale": -1},
        {"cfg_channels": 2},
        {"last_step_size": 1.5},
    ],
    ids=str,
)
def test_sampling_settings_of_a_checkpoint_that_cant_be_are_the_checkpoints_fault(
    run_cli: RunCli, empty_folder: Path, wrong: dict[str, Any]
) -> None:
    save(empty_folder / "odd.safetensors", sampling=wrong)
    for command in (("sample", "odd.safetensors"), ("flops", "odd.safetensors", "--steps", "4")):
        refused(run_cli(*command), ExitCode.CHECKPOINT, "odd.safetensors", next(iter(wrong))[:4])
    assert not Path("samples").exists()


def test_names_among_them_that_nobody_knows_decide_nothing(run_cli: RunCli, empty_folder: Path) -> None:
    save(empty_folder / "new.safetensors", sampling={"steps": 4, "mood": "blue"})
    result = run_cli("sample", "new.safetensors", "--num-images", "1", "--schedule", "full", "--json")
    assert json.loads(result.out)["nfe"] == 4


def test_a_reference_that_is_no_name_is_no_known_one(run_cli: RunCli, empty_folder: Path) -> None:
    save(empty_folder / "odd.safetensors", reference=["digits"])
    assert run_cli("sample", "odd.safetensors", "--num-images", "1", "--steps", "3", "--schedule", "full").code == 0
