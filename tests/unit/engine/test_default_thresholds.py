"""Default thresholds are passed at the same times under every form of noise that falls."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medcli.diffusion.steps import TransportSampler, build_sampler
from medcli.engine.default_thresholds import with_default_thresholds
from medcli.schedule.spec import Schedule
from medcli.settings.sampler import SamplerConfig
from tests.conftest import RunCli
from tests.unit.engine.tiny import save

DYNAMIC = Schedule(kind="dynamic", counts=(4, 16, 64), rho=(0.3, 0.1))


def rho_of(distance: Any = "l1", **sampler: Any) -> tuple[float, ...]:
    return with_default_thresholds(replace(DYNAMIC, distance=distance), SamplerConfig(**sampler)).rho


def test_under_the_form_they_were_made_for_they_are_nearly_the_papers() -> None:
    assert rho_of(diffusion_form="decreasing", steps=5000) == (0.3, 0.1)
    assert rho_of(diffusion_form="decreasing") == pytest.approx((0.3, 0.1), abs=0.011)


def test_under_sits_own_form_they_follow_the_falling_noise() -> None:
    times = (np.arccos(-0.4) / np.pi, np.arccos(-0.8) / np.pi)
    assert rho_of() == pytest.approx([(1 - t) ** 0.5 for t in times], abs=0.01)
    assert rho_of("l2") == pytest.approx([1 - t for t in times], abs=0.01)
    # In few steps the drift, which does not fall, is a part of the change.
    assert rho_of(steps=20)[1] > rho_of()[1]


@pytest.mark.parametrize("sampler", [{"path": "gvp"}, {"path": "vp"}, {"sampler": "ddpm"}, {"diffusion_form": "sbdm"}])
def test_every_falling_noise_has_thresholds_of_its_own(sampler: dict[str, Any]) -> None:
    assert rho_of(**sampler) != (0.3, 0.1)
    assert 1 > rho_of(**sampler)[0] > rho_of(**sampler)[1] > 0


@pytest.mark.parametrize(
    "sampler",
    [
        {"sampler": "sde", "steps": 2},
        {"diffusion_form": "constant"},
        {"diffusion_form": "increasing-decreasing"},
        {"sampler": "ddim"},
        {"sampler": "ode", "solver": "heun"},
        {"sampler": "ode", "solver": "dopri5"},
        {"steps": 4},
    ],
)
def test_where_no_noise_falls_they_stay(sampler: dict[str, Any]) -> None:
    assert rho_of(**sampler) == (0.3, 0.1)


@pytest.mark.parametrize("form", ["sigma", "decreasing"])
def test_pure_noise_passes_them_in_time(form: Any) -> None:
    config = SamplerConfig(diffusion_form=form, steps=100)
    rule = with_default_thresholds(DYNAMIC, config).rule()
    sampler = build_sampler(config)
    assert isinstance(sampler, TransportSampler)
    amplitudes = np.hypot(sampler.table.noise_before_L.numpy(), sampler.table.noise_after_L.numpy())
    generator, state, moves = np.random.default_rng(0), rule.start(), []
    for step in range(1, sampler.num_observed):
        noise = amplitudes[step] * generator.standard_normal(4096)
        before, state = state.index, rule.observe(state, float(np.abs(noise + 0.01).mean()))
        moves += [sampler.times[step]] * (state.index - before)
    assert moves == pytest.approx([0.63, 0.8], abs=0.05)


def test_sampling_takes_them_unless_flag_or_file_name_others(empty_folder: Path, run_cli: RunCli) -> None:
    save(empty_folder / "plain.safetensors")
    save(empty_folder / "own.safetensors", sampling={"rho": [0.5, 0.2]})
    quick = ("--steps", "50", "--num-images", "1", "--device", "cpu", "--schedule", "dynamic", "-q")

    def rho_used(name: str, *flags: str) -> list[float]:
        folder = f"{name}{len(flags)}{'4' in flags}"
        assert run_cli("sample", f"{name}.safetensors", *quick, *flags, "-o", folder).code == 0
        schedule = json.loads(Path(folder, "manifest.json").read_text())["settings"]["schedule"]
        return list(schedule["rho"])

    assert rho_used("plain") == list(rho_of(steps=50))
    assert rho_used("plain", "--rho", "0.3,0.1") == [0.3, 0.1]
    assert rho_used("own") == [0.5, 0.2]


def test_an_unreached_count_is_warned_of_in_every_run(empty_folder: Path, run_cli: RunCli) -> None:
    save(empty_folder / "x.safetensors")
    argv = ("sample", "x.safetensors", "--steps", "12", "--num-images", "1", "--device", "cpu", "--rho", "1e-6,1e-7")
    for _ in range(2):
        assert "warning: no image ever reached 4,16 mediators" in run_cli(*argv).err
