"""`medcli tune` through the real program, on networks of a few thousand weights and on the bundled model."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcli.checkpoint.writer import save_checkpoint
from medcli.cost.macs import closed_form_macs
from tests.cli.test_families import EDT, MDT
from tests.unit.engine.test_generate import DIT
from tests.unit.engine.tiny import PIXELS, save, state_of, with_ladder

SAMPLING = {"sampler": "sde", "steps": 10, "cfg_scale": 1.0}
SMALL = ("--num-images", 4)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """One tuning with guidance, shared by the tests that only look at it."""
    from medcli.cli.app import main

    folder = tmp_path_factory.mktemp("tune")
    save(folder / "m.safetensors", sampling={**SAMPLING, "cfg_scale": 1.5}, reference="digits")
    words = ["tune", folder / "m.safetensors", "--saving", "97%", *SMALL, "-o", folder / "tuning", "-q"]
    assert main([str(word) for word in words]) == 0
    return folder, json.loads((folder / "tuning/tuning.json").read_text())


def run_line(line, run_cli):
    """Run a command as it was printed; the JSON of it."""
    program, *words = shlex.split(line)
    assert program == "medcli"
    result = run_cli(*words, "--json")
    assert result.code == 0, result.err
    return json.loads(result.out)


def pixels_of(folder):
    return [np.asarray(Image.open(file)).tobytes() for file in sorted(Path(folder).glob("0*.png"))]


def test_the_choice_is_the_best_that_was_run_within_the_budget(tuned):
    _, found = tuned
    limit = 0.03 * found["dense"]["gmacs"]
    assert found["budget"] == {"kind": "saving", "value": 0.97, "unit": "gmacs", "limit": pytest.approx(limit)}
    assert found["metric"] == "error"
    assert "4 images are too few for FID: --num-images 256" in found["reason"]
    assert all(row["gmacs"] <= limit * (1 + 1e-9) for row in found["candidates"])
    assert found["chosen"]["error"] == min(row["error"] for row in found["candidates"])
    assert found["chosen"]["saving_percent"] >= 97
    assert (found["dense"]["calls"], found["dense"]["saving_percent"]) == (250, 0)
    assert found["dense"]["error"] is None
    assert all(row["seconds"] > 0 for row in [found["dense"], *found["candidates"]])
    ladders = {tuple(row["ladder"]) for row in found["candidates"]}
    assert ladders >= {(0,), (1,), (4,), (16,), (1, 0), (16, 0), (1, 4, 16, 0)}
    assert all(row["interval"] is None for row in found["candidates"])


def test_the_front_rises_in_cost_and_falls_in_error(tuned):
    folder, found = tuned
    pairs = [(row["gmacs"], row["error"]) for row in found["front"]]
    assert pairs == sorted(pairs)
    assert [error for _, error in pairs] == sorted((error for _, error in pairs), reverse=True)
    for name in ("tuning.png", "pictures.png"):
        assert (folder / "tuning" / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_gmacs_are_exactly_the_sum_over_rows_of_entry_times_halves(tuned):
    folder, found = tuned
    for row in found["candidates"]:
        macs = sum(2 * int(closed_form_macs(PIXELS, num_mediators=0 if n == "full" else n)) for n in row["networks"])
        assert row["gmacs"] == float(Fraction(macs, 10**9)), row
    plan = json.loads((folder / "tuning/plan.json").read_text())
    assert plan["networks"] == found["chosen"]["networks"]
    assert plan["guidance"]["by_step"] == [True] * found["chosen"]["calls"]


def test_the_command_makes_the_very_images_at_the_very_cost(tuned, run_cli):
    folder, found = tuned
    assert f"--plan {folder / 'tuning/plan.json'}" in found["command"]
    report = run_line(found["command"], run_cli)
    assert report["gmacs_per_image"] == pytest.approx(found["chosen"]["gmacs"], rel=1e-8)
    assert report["nfe"] == found["chosen"]["calls"]
    by_flags = run_line(found["chosen"]["command"], run_cli)
    assert pixels_of(report["output"]) == pixels_of(by_flags["output"])
    height, width = np.asarray(Image.open(folder / "tuning/pictures.png")).shape[:2]
    assert width > 1.9 * height  # four columns: the fine path's pictures above the choice's


def test_every_command_on_the_front_runs_as_pasted_and_costs_what_was_promised(tuned, run_cli):
    _, found = tuned
    for row in [found["dense"], *found["front"]]:
        report = run_line(row["command"], run_cli)
        assert report["gmacs_per_image"] == pytest.approx(row["gmacs"], rel=1e-8)
        assert report["gmacs_done_per_image"] == pytest.approx(row["gmacs_done"], rel=1e-8)


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if key != "seconds"}
    return [without_times(one) for one in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_the_same_seed_gives_the_same_answer_and_another_may_not(tuned, run_cli, empty_folder):
    folder, found = tuned
    words = ("tune", folder / "m.safetensors", "--saving", "0.97", *SMALL, "--json")
    again = json.loads(run_cli(*words, "-o", "again").out)
    wanted = json.loads(json.dumps(found).replace(str(folder / "tuning"), "again"))
    assert without_times(again) == without_times(wanted)
    other = json.loads(run_cli(*words, "-o", "other", "--seed", 1).out)
    assert other["chosen"]["error"] != found["chosen"]["error"]


def test_a_tuning_that_was_killed_goes_on_to_the_same_answer(tuned, run_cli, tmp_path):
    folder, found = tuned
    part = tmp_path / "tuning"
    shutil.copytree(folder / "tuning", part, ignore=shutil.ignore_patterns("samples"))
    for name in ("tuning.json", "tuning.png", "plan.json", "pictures.png", "fine.npy"):
        (part / name).unlink()
    for file in sorted((part / "runs").iterdir())[::2]:
        file.unlink()
    left = {file: file.stat().st_mtime_ns for file in (part / "runs").iterdir()}
    words = ("tune", folder / "m.safetensors", "--saving", "97%", *SMALL, "-o", part, "--json")
    again = json.loads(run_cli(*words).out.replace(str(part), str(folder / "tuning")))
    assert without_times(again) == without_times(found)
    assert left == {file: file.stat().st_mtime_ns for file in left}


def test_another_budget_runs_only_what_is_new_and_calls_count(tuned, run_cli, tmp_path):
    folder, found = tuned
    part = tmp_path / "tuning"
    shutil.copytree(folder / "tuning", part, ignore=shutil.ignore_patterns("samples"))
    runs = {file: file.stat().st_mtime_ns for file in (part / "runs").iterdir()}
    words = ("tune", folder / "m.safetensors", "--calls", 6, *SMALL, "-o", part, "--json")
    report = json.loads(run_cli(*words).out)
    assert runs == {file: file.stat().st_mtime_ns for file in runs}
    assert {row["calls"] for row in report["candidates"]} == {4, 6}
    assert report["budget"] == {"kind": "calls", "value": 6.0, "unit": "calls", "limit": 6.0}
    assert json.loads((part / "plan.json").read_text())["networks"] == report["chosen"]["networks"]


def test_no_budget_shows_the_whole_front_and_chooses_one_that_is_good(run_cli, empty_folder):
    save(empty_folder / "m.safetensors", sampling=SAMPLING)
    report = json.loads(run_cli("tune", "m.safetensors", *SMALL, "--mediators", 4, "--json").out)
    assert report["budget"] is None
    assert {row["calls"] for row in report["candidates"]} >= {4, 8, 12, 24}
    assert {tuple(row["ladder"]) for row in report["candidates"]} == {(0,), (4,), (4, 0)}
    good = [row for row in report["candidates"] if row["error"] <= 0.02]
    assert report["chosen"]["gmacs"] == min(row["gmacs"] for row in good)


def test_seconds_are_measured_and_what_takes_longer_is_not_run_again(run_cli, empty_folder):
    save(empty_folder / "m.safetensors", sampling=SAMPLING)
    words = ("tune", "m.safetensors", *SMALL, "--mediators", 4, "--json")
    refused = run_cli(*words, "--seconds", 1e-9)
    assert refused.code == 2
    assert "--seconds 1e-09 is out of reach: the nearest possible is --seconds 0.0" in refused.err
    assert len(list(Path("tuning/runs").iterdir())) == 4  # full, 4, and 4 before full attention in two ways
    # A toy's times say little: they are made up here.
    for file in Path("tuning/runs").iterdir():
        file.write_text(json.dumps({**json.loads(file.read_text()), "seconds": 5.0}))
    report = json.loads(run_cli(*words, "--seconds", 6).out)
    assert report["chosen"]["seconds"] <= 6
    assert report["budget"]["unit"] == "seconds"
    assert report["timing"]["clock"]
    front = [row["seconds"] for row in report["front"]]
    assert front == sorted(front)


@pytest.mark.slow
def test_a_score_decides_where_images_suffice_and_then_intervals_are_tried(run_cli, empty_folder, monkeypatch):
    monkeypatch.setattr("medcli.workflows.tune.judging.ENOUGH_PER_FEATURE", 1)
    save(empty_folder / "m.safetensors", sampling={**SAMPLING, "cfg_scale": 1.5}, reference="digits")
    words = ("tune", "m.safetensors", "--mediators", 1, "--calls", 4, "--json")
    few = run_cli(*words, *SMALL, "--metric", "fid", "-o", "few")
    assert "fewer than the 64 dimensions" in few.err
    report = json.loads(run_cli(*words, "--num-images", 65).out)
    assert (report["metric"], report["reason"]) == ("fid", "against digits with digits")
    assert report["chosen"]["fid"] == min(row["fid"] for row in report["candidates"]) > 0
    assert report["chosen"]["fid_standard_error"] > 0
    assert {tuple(row["interval"] or ()) for row in report["candidates"]} == {(), (0.3, 1.0)}
    part = next(row for row in report["candidates"] if row["interval"] and row["ladder"] == [0])
    macs = int(closed_form_macs(PIXELS, num_mediators=0))
    assert part["gmacs"] == float(Fraction((2 * 1 + 2 * 2) * macs, 10**9))
    made = run_line(report["command"], run_cli)
    score = json.loads(run_cli("fid", made["output"], "digits", "--metrics", "fid", "--json").out)
    assert score["fid"] == pytest.approx(report["chosen"]["fid"], rel=1e-6)
    assert score["standard_errors"]["fid"] == pytest.approx(report["chosen"]["fid_standard_error"], rel=1e-6)
    again = json.loads(run_cli(*words, "--num-images", 65).out)
    assert again["candidates"] == report["candidates"]


def test_the_score_of_another_reference_is_not_mistaken_for_this_ones(run_cli, empty_folder):
    save(empty_folder / "m.safetensors", sampling=SAMPLING)
    words = ("tune", "m.safetensors", "--mediators", "none", "--calls", 4, *SMALL, "--metric", "fid", "--json")
    pictures = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 3), dtype=np.uint8)
    scores = []
    for shift in (0, 40):
        np.savez("r.npz", pictures // 2 + shift)
        result = run_cli(*words, "--reference", "r.npz", "--extractor", "digits")
        assert result.code == 0, result.err
        scores.append(json.loads(result.out)["chosen"]["fid"])
    assert scores[0] != scores[1]


def test_a_fit_is_kept_only_if_it_beats_the_solver_on_unseen_images(run_cli, empty_folder, monkeypatch):
    save(empty_folder / "m.safetensors", sampling=SAMPLING)
    words = ("tune", "m.safetensors", "--calls", 4, "--mediators", "none", "--num-images", 8, "--fit", "--json")
    report = json.loads(run_cli(*words).out)
    fit, plan = report["fit"], json.loads(Path("tuning/plan.json").read_text())
    assert fit["kept"] is (fit["difference"] < -2 * fit["difference_standard_error"])
    assert fit["kept"]
    assert report["chosen"]["fitted"]
    assert plan["sha256"] == fit["plan_sha256"] == report["chosen"]["plan_sha256"]
    made = run_line(report["command"], run_cli)
    assert made["gmacs_per_image"] == pytest.approx(report["chosen"]["gmacs"], rel=1e-8)
    resumed = json.loads(run_cli(*words).out)
    assert resumed["fit"] == fit
    monkeypatch.setattr("medcli.workflows.tune.report.SURE", 1e9)
    refused = json.loads(run_cli(*words).out)
    assert (refused["fit"]["kept"], refused["chosen"]["fitted"]) == (False, False)
    assert json.loads(Path("tuning/plan.json").read_text())["sha256"] == refused["chosen"]["plan_sha256"]
    shown = run_cli(*words[:-1])
    assert "fitted times and weights are not kept: error" in shown.out


def test_solver_steps_and_finalists_are_taken_and_a_budget_of_exactly_the_cheapest(run_cli, empty_folder):
    save(empty_folder / "m.safetensors", sampling=SAMPLING)
    words = ("tune", "m.safetensors", *SMALL, "--mediators", "1,4", "--solver", "heun", "--steps", 5, "--json")
    cost = 2 * 4 * int(closed_form_macs(PIXELS, num_mediators=1)) / 1e9
    report = json.loads(run_cli(*words, "--gmacs", repr(cost)).out)
    assert report["budget"] == {"kind": "gmacs", "value": cost, "unit": "gmacs", "limit": cost}
    (only,) = report["candidates"]
    assert (only["steps"], only["calls"], only["networks"], only["gmacs"]) == (5, 8, [1] * 4, cost)
    assert "--solver heun --steps 5" in only["command"]
    made = run_line(report["command"], run_cli)
    assert (made["nfe"], made["gmacs_per_image"]) == (8, pytest.approx(cost, rel=1e-8))
    every = json.loads(run_cli(*words).out)["candidates"]
    some = json.loads(run_cli(*words, "--finalists", 3).out)["candidates"]
    assert len(every) > len(some) == 3
    assert [some[0], some[-1]] == [every[0], every[-1]]
    words = (*words[:-2], 7, "-o", "other", "--json")
    rows = json.loads(run_cli(*words, "--calls", 12).out)["candidates"]
    assert {row["calls"] for row in rows} == {12}


def test_solvers_of_several_calls_a_step_keep_to_the_calls(run_cli, empty_folder):
    save(empty_folder / "m.safetensors", sampling=SAMPLING)
    words = ("tune", "m.safetensors", *SMALL, "--mediators", "none", "--solver", "rk4", "--calls", 11, "--json")
    rows = json.loads(run_cli(*words).out)["candidates"]
    assert [(row["steps"], row["calls"]) for row in rows] == [(2, 4), (3, 8)]


def test_with_noise_in_the_sampler_exact_is_full_attention_at_the_same_steps(run_cli, empty_folder):
    save(empty_folder / "m.safetensors", sampling=SAMPLING)
    words = ("tune", "m.safetensors", *SMALL, "--mediators", 4, "--sampler", "sde", "--json")
    report = json.loads(run_cli(*words, "--steps", 6).out)
    errors = {tuple(row["ladder"]): row["error"] for row in report["candidates"]}
    assert errors[0,] == 0 < errors[4,]
    scored = run_cli(*words, "--calls", 6, "--metric", "fid", "--reference", "digits", "-o", "scored")
    assert scored.code == 0, scored.err
    assert {row["error"] for row in json.loads(scored.out)["candidates"]} == {None}


@pytest.mark.parametrize(
    "config",
    [with_ladder(DIT, 4), EDT, replace(MDT, mediators=(4,), mediator_layers=(0, 1))],
    ids=["dit", "edt", "mdtv2"],
)
def test_other_families_take_multistep_ddim(config, run_cli, empty_folder):
    save(empty_folder / "m.safetensors", config, sampling={"cfg_scale": 1.5})
    words = ("--fit",) if config.family == "dit" else ()
    result = run_cli("tune", "m.safetensors", "--calls", 4, "--num-images", 2, *words, "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    commands = [row["command"] for row in report["candidates"] if row["command"]]
    assert all("--sampler ddim --solver multistep2 --steps 4" in command for command in commands)
    assert "--sampler ddpm --steps 250" in report["dense"]["command"]
    made = run_line(report["command"], run_cli)
    assert made["gmacs_per_image"] == pytest.approx(report["chosen"]["gmacs"], rel=1e-8)


def test_a_model_without_a_ladder_is_tuned_with_full_attention_alone(run_cli, empty_folder):
    save(empty_folder / "dense.safetensors", with_ladder(PIXELS), sampling=SAMPLING)
    result = run_cli("tune", "dense.safetensors", "--saving", "98%", *SMALL, "--json")
    assert "only full attention is tried: the model has no ladder" in result.err
    report = json.loads(result.out)
    assert {tuple(row["ladder"]) for row in report["candidates"]} == {(0,)}
    assert report["chosen"]["calls"] == 5


def test_latents_are_tuned_without_an_autoencoder(run_cli, empty_folder):
    config = replace(PIXELS, in_channels=4, autoencoder="no/such", latent_downsample=8, latent_size=4)
    save(empty_folder / "m.safetensors", config, sampling=SAMPLING)
    words = ("tune", "m.safetensors", "--mediators", "none", "--calls", 4, *SMALL, "--json")
    blind = run_cli(*words)
    assert blind.code == 0, blind.err
    assert "no pictures:" in blind.err
    assert json.loads(blind.out)["pictures"] is None


@pytest.mark.parametrize(
    ("tensor", "scale"),
    [("final_layer.linear.weight", 3e38), ("final_layer.linear.weight", 1e24), ("blocks.0.attn.dwc.weight", 3e38)],
)
def test_a_model_whose_images_diverge_is_refused_in_one_line(run_cli, empty_folder, tensor, scale):
    state = state_of(PIXELS)
    state[tensor].fill_(scale)
    save_checkpoint("m.safetensors", PIXELS, state, sampling=SAMPLING)
    for _ in range(2):
        result = run_cli("tune", "m.safetensors", "--calls", 4, *SMALL)
        assert result.code == 3
        assert result.err.startswith("error: image 0 became NaN or infinite at solver step")
        assert len(result.err.splitlines()) == 2


def test_a_run_that_can_not_be_is_named_and_not_used(tuned, run_cli, tmp_path):
    folder, _ = tuned
    part = tmp_path / "tuning"
    shutil.copytree(folder / "tuning", part, ignore=shutil.ignore_patterns("samples"))
    file = next(one for one in sorted((part / "runs").iterdir()) if json.loads(one.read_text())["errors"])
    good = json.loads(file.read_text())
    for change in (
        {"errors": good["errors"][1:]},
        {"errors": None},
        {"errors": [-1.0] * 4},
        {"errors": ["1"] * 4},
        {"seconds": -1.0},
        {"plan_sha256": "0"},
        {"fid": "low"},
    ):
        file.write_text(json.dumps({**good, **change}))
        result = run_cli("tune", folder / "m.safetensors", "--saving", "97%", *SMALL, "-o", part)
        assert result.code == 4, change
        assert f"{file.name} is damaged" in result.err
        assert len(result.err.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--saving", "lots"), 2, "--saving 'lots'"),
        (("--saving", "0"), 2, "--saving must be in (0, 1), got 0"),
        (("--saving", "100%"), 2, "--saving must be in (0, 1), got 1"),
        (("--saving", "nan"), 2, "--saving must be a finite number"),
        (("--saving", "99.9%"), 2, "--saving 99.9% is out of reach: the nearest possible is --saving 99."),
        (("--calls", "1"), 2, "--calls must be at least 2"),
        (("--calls", "1.5"), 2, "--calls '1.5'"),
        (("--seconds", "0"), 2, "--seconds must be above 0"),
        (("--seconds", "inf"), 2, "--seconds must be a finite number"),
        (("--saving", "90%", "--calls", "12"), 2, "one budget, got --saving 90% and --calls 12"),
        (("--mediators", "9"), 2, "9 mediators are not in this checkpoint's ladder"),
        (("--mediators", "4,1"), 2, "rising counts"),
        (("--vae", "no/such"), 2, "this model makes pixels, not latents"),
        (("--metric", "error", "--reference", "digits"), 2, "--reference does nothing with --metric error"),
        (("--metric", "fid"), 2, "--metric fid needs a reference"),
        (("--reference", "no/such.npz"), 4, "no reference 'no/such.npz'"),
        (("--num-images", "1"), 2, "--num-images must be at least 2"),
        (("--steps", "30", "--calls", "12"), 2, "--calls 12 is out of reach: the nearest possible is --calls 30"),
        (("--solver", "heun", "--fit"), 2, "--fit does nothing with --solver heun"),
        (("--sampler", "sde", "--fit"), 2, "--fit does nothing with --sampler sde"),
        (("--solver", "dopri5"), 2, "--solver 'dopri5': expected one of"),
        (("--solver", "exp2"), 2, "use --sampler sde"),
        (("--sampler", "sde"), 2, "fix the steps with --steps"),
        (("--gmacs", "1e-9"), 2, "--gmacs 1e-09 is out of reach: the nearest possible is --gmacs 0.000"),
        (("--gmacs", "1", "--saving", "1"), 2, "one budget, got --saving 1% and --gmacs 1"),
        (("--finalists", "0"), 2, "--finalists must be at least 1"),
    ],
)
def test_what_can_not_be_is_refused_in_one_line_with_a_way_out(words, code, said, run_cli, empty_folder):
    save(empty_folder / "m.safetensors", sampling=SAMPLING)
    result = run_cli("tune", "m.safetensors", *words)
    assert said in result.err
    assert result.code == code
    assert len(result.err.strip().splitlines()) == 2
    assert not list(empty_folder.glob("tuning/*.npy"))


def test_a_missing_model_is_named(run_cli, empty_folder):
    result = run_cli("tune", "gone.safetensors")
    assert result.code == 3
    assert result.err.startswith("error: gone.safetensors does not exist")


def test_a_folder_that_holds_another_tuning_is_left_alone(tuned, run_cli):
    folder, _ = tuned
    before = sorted((folder / "tuning").rglob("*"))
    words = ("tune", folder / "m.safetensors", "--saving", "97%", *SMALL, "-o", folder / "tuning")
    result = run_cli(*words, "--cfg-scale", 2)
    assert result.code == 2
    assert "other settings (guidance)" in result.err
    save(folder / "m2.safetensors", seed=1, sampling={**SAMPLING, "cfg_scale": 1.5})
    other = run_cli("tune", folder / "m2.safetensors", *words[2:])
    assert "other settings (checkpoints)" in other.err
    assert sorted((folder / "tuning").rglob("*")) == before


def test_the_table_shows_baseline_and_choice_and_the_command(tuned, run_cli):
    folder, found = tuned
    result = run_cli("tune", folder / "m.safetensors", "--saving", "97%", *SMALL, "-o", folder / "tuning")
    assert found["command"] in result.out
    assert "dense" in result.out
    assert "chosen" in result.out
    assert "too few for FID" in result.out


@pytest.mark.slow
def test_the_digits_model_saves_ninety_percent_with_an_error_of_three_percent_at_most(run_cli, empty_folder):
    report = json.loads(run_cli("tune", "digits", "--saving", "90%", "--json").out)
    assert report["chosen"]["saving_percent"] >= 90 - 1e-6
    assert report["chosen"]["error"] <= 0.03
    made = run_line(report["command"], run_cli)
    assert made["gmacs_per_image"] == pytest.approx(report["chosen"]["gmacs"], rel=1e-8)
    flags = run_line(report["chosen"]["command"], run_cli)
    assert pixels_of(made["output"]) == pixels_of(flags["output"])
