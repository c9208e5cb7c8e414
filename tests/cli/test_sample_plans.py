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


def test_a_stage_of_full_attention_alone_needs_no_schedule(run_cli: RunCli, empty_folder: Path) -> None:
    save(empty_folder / "m.safetensors", sampling={"schedule": "static"})
    result = run_cli("sample", "--stage", "full=m.safetensors", *FEW, "--steps", "4", "-o", "out")
    assert result.code == 0, result.err
    assert manifest("out")["settings"]["schedule"]["kind"] == "full"


def test_the_ode_takes_adams3_with_20_calls_and_a_dynamic_schedule_the_sde(run_cli: RunCli, model: str) -> None:
    result = run_cli("sample", model, *FEW, "--sampler", "ode", "--schedule", "full", "-o", "ode", "--json")
    assert json.loads(result.out)["nfe"] == 20
    assert manifest("ode")["settings"]["sampler"]["solver"] == "adams3"
    save(Path("ode.safetensors"), sampling={"sampler": "ode", "solver": "adams2", "steps": 6, "schedule": "full"})
    own = run_cli("sample", "ode.safetensors", *FEW, "-o", "own", "--json")
    assert json.loads(own.out)["nfe"] == 6
    assert run_cli("sample", "ode.safetensors", *FEW, "--rho", "0.98,0.9", "--steps", "9", "-o", "sde").code == 0
    assert manifest("sde")["settings"]["sampler"]["sampler"] == "sde"


def test_a_header_of_an_ode_holds_the_defaults_of_the_sde_too(run_cli: RunCli, empty_folder: Path) -> None:
    sde = {"solver": "euler", "steps": 7, "diffusion_form": "decreasing", "last_step_size": 0.01}
    own = {"sampler": "ode", "solver": "adams2", "steps": 6, "schedule": "static"}
    save(empty_folder / "m.safetensors", sampling={**own, "for_sampler": {"sde": sde}})
    assert run_cli("sample", "m.safetensors", *FEW, "--rho", "0.98,0.9", "-o", "a").code == 0
    made = manifest("a")["settings"]["sampler"]
    assert {name: made[name] for name in sde} == sde
    assert (made["sampler"], made["last_step"]) == ("sde", "mean")
    counted = run_cli("flops", "m.safetensors", "--schedule", "dynamic", "--rho", "0.98,0.9", "--json")
    assert counted.code == 0, counted.err
    analyzed = run_cli("analyze", "m.safetensors", "--num-images", "2", "--no-attention", "-o", "an")
    assert analyzed.code == 0, analyzed.err
    assert json.loads(Path("an/analysis.json").read_text())["settings"]["sampler"]["sampler"] == "sde"


@pytest.mark.parametrize(
    "others", [5, {"sde": 5}, {"sde": {"steps": "many"}}, {"sde": {"solver": "adams3"}}, {"ddpm": {"steps": 5}}]
)
def test_defaults_of_another_sampler_in_a_header_are_checked(
    run_cli: RunCli, empty_folder: Path, others: object
) -> None:
    save(empty_folder / "m.safetensors", sampling={"for_sampler": others})
    result = run_cli("sample", "m.safetensors", *FEW)
    assert (result.code, "invalid sampling settings" in result.err) == (ExitCode.CHECKPOINT, True)


def test_the_bundled_model_samples_in_12_calls(run_cli: RunCli, empty_folder: Path) -> None:
    own = json.loads(run_cli("sample", *FEW, "-o", "own", "--json").out)
    assert own["nfe"] == 12
    settings = manifest("own")["settings"]
    assert settings["sampler"]["solver"] == "adams3"
    assert (settings["schedule"]["kind"], settings["guidance"]["scale"]) == ("full", 1.5)
    again = run_cli("sample", *FEW, "--schedule", "full", "-o", "own")
    assert again.code == 0  # the same settings: the finished run is shown
    assert run_cli("sample", *FEW, "--schedule", "timed", "--at", "0.3,0.6", "-o", "own").code == 2


def test_a_header_may_hold_a_timed_schedule(run_cli: RunCli, empty_folder: Path) -> None:
    timed = {"schedule": "timed", "mediators": [4, 0], "at": [0.5]}
    save(empty_folder / "m.safetensors", sampling=timed)
    words = ("sample", "m.safetensors", *FEW, "--sampler", "ode", "--steps", "4", "-o", "own")
    assert run_cli(*words).code == 0
    found = manifest("own")["settings"]["schedule"]
    assert (found["kind"], found["counts"], found["at"]) == ("timed", [4, 0], [0.5])
    again = run_cli(*words, "--schedule", "timed", "--mediators", "4,full", "--at", "0.5")
    assert again.code == 0  # the same settings
    assert run_cli(*words, "--schedule", "full").code == 2


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mediators": [16, 9]}, "not in this checkpoint's ladder"),
        ({"at": [0.5, 0.2]}, "--at"),
        ({"at": [1.5]}, "at"),
        ({"mediators": [True]}, "mediators"),
    ],
)
def test_a_header_with_a_wrong_timed_schedule_is_refused(run_cli, empty_folder, values, words):
    timed = {"schedule": "timed", "mediators": [16, 0], "at": [0.5]}
    save(empty_folder / "m.safetensors", sampling=timed | values)
    result = run_cli("sample", "m.safetensors", *FEW)
    assert (result.code, "invalid sampling settings" in result.err) == (ExitCode.CHECKPOINT, True)
    assert words in result.err


def test_the_digits_model_moves_along_its_ladder_where_asked(run_cli: RunCli, empty_folder: Path) -> None:
    words = ("sample", "digits", "--schedule", "dynamic", "--rho", "0.3,0.1", "--num-images", "8", "-o", "moved")
    assert run_cli(*words).code == 0
    made = manifest("moved")["settings"]["sampler"]
    assert [made[name] for name in ("sampler", "steps", "diffusion_form", "last_step_size")] == [
        "sde",
        100,
        "decreasing",
        0.004,
    ]
    lines = Path("moved/images.jsonl").read_text().splitlines()
    assert sum(len(json.loads(line)["switch_steps"]) == 2 for line in lines) >= 7


def test_many_calls_hint_at_few(run_cli: RunCli, model: str) -> None:
    many = ("sample", model, "--num-images", "1", "--schedule", "full")
    result = run_cli(*many, "--steps", "120", "-o", "many")
    assert "120 network calls an image; --sampler ode --steps 20 makes 20, 83 % fewer" in result.err
    assert "network calls an image; --sampler ode makes 20, 92 % fewer" in run_cli(*many, "-o", "default").err
    assert "network calls" not in run_cli(*many, "--steps", "99", "-o", "few").err
    quiet = run_cli(*many, "--steps", "120", "-o", "quiet", "--quiet")
    assert (quiet.code, quiet.err) == (0, "")
    save(Path("own.safetensors"), sampling={"for_sampler": {"ode": {"solver": "adams2", "steps": 8}}})
    own = run_cli("sample", "own.safetensors", *many[2:], "--solver", "heun", "--steps", "101", "-o", "own")
    assert "--sampler ode --solver adams2 --steps 8 makes 8, 96 % fewer" in own.err


def test_the_flags_of_the_hint_run_as_they_are_written(run_cli: RunCli, model: str) -> None:
    words = ("sample", model, "--num-images", "1")
    result = run_cli(*words, "--steps", "120", "--schedule", "dynamic", "--rho", "0.98,0.9", "-o", "many")
    line = next(line for line in result.err.splitlines() if "network calls" in line)
    flags = line.partition("; ")[2].partition(" makes ")[0].split()
    assert flags == ["--sampler", "ode", "--steps", "20", "--schedule", "timed", "--at", "0.33,0.67"]
    assert run_cli(*words, *flags, "-o", "few").code == 0


def test_a_ladder_that_no_flag_asks_to_climb_is_static_under_the_ode(empty_folder: Path, run_cli: RunCli) -> None:
    save(empty_folder / "plain.safetensors")
    argv = ("sample", "plain.safetensors", "--num-images", "1", "--device", "cpu", "--steps", "4", "--sampler", "ode")
    assert run_cli(*argv, "-o", "out").code == 0
    schedule = json.loads(Path("out/manifest.json").read_text())["settings"]["schedule"]
    assert schedule == {"kind": "static", "counts": [16]}
    assert run_cli(*argv, "--rho", "0.5,0.2").code == 2


def test_guided_steps_of_a_plan_with_its_own_times_count_as_they_are(run_cli: RunCli, model: str) -> None:
    ode = ("--schedule", "full", "--sampler", "ode", "--solver", "adams2", "--steps", "8")
    guided = ("--cfg-scale", "2", "--cfg-interval", "0.3,0.7")
    assert run_cli("sample", model, *FEW, *ode, *guided, "--save-plan", "p.json", "-o", "a").code == 0
    plan = json.loads(Path("p.json").read_text())
    plan |= {"rows": None, "times": [0, 0.02, 0.05, 0.1, 0.2, 0.45, 0.8, 0.9]}
    plan["guidance"]["by_step"] = [False, True, True, True, True, True, False, False]
    del plan["sha256"]
    Path("p.json").write_text(json.dumps(plan))
    report = json.loads(run_cli("sample", model, *FEW, "--plan", "p.json", "-o", "b", "--json").out)
    [cost] = json.loads(run_cli("flops", model, "--manifest", "b", "--json").out)["images"]
    merged = json.loads(run_cli("merge", "b", "-o", "c", "--json").out)
    a_pass = report["gmacs_per_image"] / (8 + 5)
    for dense in (report["gmacs_dense"], cost["gmacs_dense"], cost["gmacs"], merged["gmacs_dense"]):
        assert dense == pytest.approx(13 * a_pass)  # all of them are full attention
