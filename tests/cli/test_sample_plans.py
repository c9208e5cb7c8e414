"""Plan files, timed schedules and multistep solvers through the program."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medcli.errors import ExitCode
from tests.conftest import RunCli
from tests.unit.engine.tiny import PIXELS, save, with_ladder

FEW = ("--num-images", "3")
TIMED = ("--sampler", "ode", "--steps", "8", "--schedule", "timed", "--mediators", "1,4,full", "--at", "0.25,0.5")


def manifest(folder: str) -> dict[str, Any]:
    return json.loads((Path(folder) / "manifest.json").read_text())


def pictures(folder: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(Path(folder).glob("0*.png"))]


@pytest.fixture
def model(empty_folder: Path) -> str:
    return str(save(empty_folder / "m.safetensors").name)


def test_a_saved_plan_repeats_the_run_and_stands_in_the_manifest(run_cli: RunCli, model: str) -> None:
    assert run_cli("sample", model, *FEW, *TIMED, "--cfg-scale", "2", "--save-plan", "p.json", "-o", "a").code == 0
    result = run_cli("sample", model, *FEW, "--plan", "p.json", "-o", "b", "--json")
    assert result.code == 0, result.err
    assert len(pictures("a")) == 3
    assert pictures("a") == pictures("b")
    assert json.loads(result.out)["nfe"] == 8
    recorded = manifest("b")["settings"]["plan"]
    assert recorded == json.loads(Path("p.json").read_text())
    assert recorded["networks"] == [1, 1, 4, 4, "full", "full", "full", "full"]
    # The folder is continued with the plan, and with nothing else.
    assert run_cli("sample", model, "--num-images", "5", "--plan", "p.json", "-o", "b").code == 0
    assert run_cli("sample", model, "--num-images", "6", *TIMED, "--cfg-scale", "2", "-o", "b").code == 2
    assert run_cli("sample", "--config", "b/manifest.json", "-o", "c").code == 0
    assert pictures("c") == pictures("b")


@pytest.mark.parametrize("flag", ["--steps 5", "--sampler ode", "--at 0.5", "--cfg-scale 1", "--schedule full"])
def test_flags_that_a_plan_decides_contradict_it(run_cli: RunCli, model: str, flag: str) -> None:
    assert run_cli("sample", model, *FEW, *TIMED, "--save-plan", "p.json", "-o", "a").code == 0
    result = run_cli("sample", model, "--plan", "p.json", *flag.split(), "-o", "b")
    assert (result.code, result.err.splitlines()[0]) == (
        ExitCode.USAGE,
        f"error: {flag.split()[0]} and --plan contradict each other",
    )
    assert not Path("b").exists()


def test_a_plan_that_names_a_missing_rung_is_refused(run_cli: RunCli, model: str, empty_folder: Path) -> None:
    assert run_cli("sample", model, *FEW, *TIMED, "--save-plan", "p.json", "-o", "a").code == 0
    save(empty_folder / "other.safetensors", with_ladder(PIXELS, 16))
    result = run_cli("sample", "other.safetensors", "--plan", "p.json", "-o", "b")
    assert result.code == ExitCode.USAGE
    assert "1 mediators are not in this checkpoint's ladder" in result.err
    assert len(result.err.splitlines()) == 2
    save(empty_folder / "dit.safetensors", replace(PIXELS, family="dit", learn_sigma=True))
    refused = run_cli("sample", "dit.safetensors", "--plan", "p.json", "-o", "b")
    assert (refused.code, "plan for a sit model" in refused.err) == (ExitCode.USAGE, True)
    for name in ("missing.json", "m.safetensors", "."):
        refused = run_cli("sample", model, "--plan", name, "-o", "b")
        assert refused.code in (ExitCode.USAGE, ExitCode.ENVIRONMENT), refused.err
        assert len(refused.err.splitlines()) <= 2
    assert not Path("b").exists()


def test_rungs_may_be_checkpoints_of_other_sizes(run_cli: RunCli, empty_folder: Path) -> None:
    save(empty_folder / "small.safetensors", with_ladder(PIXELS, 4))
    save(empty_folder / "large.safetensors", replace(with_ladder(PIXELS, 4), hidden_size=24, depth=3), seed=1)
    stages = ("--stage", "full=large.safetensors", "--stage", "4=small.safetensors")
    schedule = ("--schedule", "timed", "--at", "0.5", "--sampler", "ode", "--solver", "adams2", "--steps", "6")
    result = run_cli("sample", *stages, *schedule, *FEW, "-o", "out", "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["switch_steps_mean"] == [2.0]
    assert report["gmacs_per_image"] < report["gmacs_dense"]
    assert [one["file"] for one in manifest("out")["settings"]["checkpoints"]] == [
        "small.safetensors",
        "large.safetensors",
    ]
    save(empty_folder / "gvp.safetensors", with_ladder(PIXELS, 16), sampling={"path": "gvp"})
    other = run_cli("sample", "--stage", "4=small.safetensors", "--stage", "16=gvp.safetensors", *schedule, "-o", "x")
    assert (other.code, "another path" in other.err) == (ExitCode.USAGE, True)


def test_the_ode_takes_adams3_with_20_calls_and_a_dynamic_schedule_the_sde(run_cli: RunCli, model: str) -> None:
    result = run_cli("sample", model, *FEW, "--sampler", "ode", "--schedule", "full", "-o", "ode", "--json")
    assert json.loads(result.out)["nfe"] == 20
    assert manifest("ode")["settings"]["sampler"]["solver"] == "adams3"
    save(Path("ode.safetensors"), sampling={"sampler": "ode", "solver": "adams2", "steps": 6, "schedule": "full"})
    own = run_cli("sample", "ode.safetensors", *FEW, "-o", "own", "--json")
    assert json.loads(own.out)["nfe"] == 6
    assert run_cli("sample", "ode.safetensors", *FEW, "--rho", "0.98,0.9", "--steps", "9", "-o", "sde").code == 0
    assert manifest("sde")["settings"]["sampler"]["sampler"] == "sde"


def test_many_calls_hint_at_few(run_cli: RunCli, model: str) -> None:
    result = run_cli("sample", model, "--num-images", "1", "--steps", "120", "--schedule", "full", "-o", "many")
    assert "120 network calls an image; --sampler ode makes 20, 83 % fewer" in result.err
    assert "network calls" not in run_cli("sample", model, *FEW, "--steps", "99", "--schedule", "full", "-o", "f").err
