"""`medcli tune` through the real program, on a network of a few thousand weights."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from medcli.checkpoint.writer import save_checkpoint
from tests.unit.engine.tiny import PIXELS, save, state_of, with_ladder

SAMPLING = {"sampler": "sde", "steps": 10, "cfg_scale": 1.0}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """One tuning, shared by the tests that only look at it."""
    from medcli.cli.app import main

    folder = tmp_path_factory.mktemp("tune")
    save(folder / "m.safetensors", sampling=SAMPLING, reference="digits")
    words = ["tune", folder / "m.safetensors", *words_of("5%"), "-o", folder / "tuning", "-q"]
    assert main([str(word) for word in words]) == 0
    return folder, json.loads((folder / "tuning/tuning.json").read_text())


def words_of(saving, num_images=6):
    return ("--saving", saving, "--num-images", num_images, "--finalists", 8)


def run_line(line, run_cli):
    """Run a command as it was printed; the JSON of it."""
    program, *words = shlex.split(line)
    assert program == "medcli"
    result = run_cli(*words, "--json")
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_the_choice_is_the_best_that_was_run_within_the_budget(tuned):
    _, found = tuned
    limit = 0.95 * found["dense"]["gmacs"]
    assert found["budget"] == {"kind": "saving", "value": 5.0, "unit": "gmacs", "limit": pytest.approx(limit)}
    allowed = [one for one in found["candidates"] if one["cost"] <= limit]
    assert allowed
    assert found["chosen"]["error"] == min(one["error"] for one in allowed)
    assert found["chosen"]["cost"] <= limit
    assert found["dense"]["error"] == 0
    assert 4 <= len(found["candidates"]) <= 8


def test_the_front_rises_in_cost_and_falls_in_error(tuned):
    _, found = tuned
    pairs = [(one["cost"], one["error"]) for one in found["front"]]
    assert pairs == sorted(pairs, key=lambda pair: (pair[0], -pair[1]))
    assert [error for _, error in pairs] == sorted((error for _, error in pairs), reverse=True)
    assert pairs[-1] == (found["dense"]["cost"], 0)
    folder, _ = tuned
    assert (folder / "tuning/tuning.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_every_command_on_the_front_runs_as_pasted_and_costs_what_was_promised(tuned, run_cli):
    _, found = tuned
    assert {one["schedule"] for one in found["front"]} >= {"full", "static"}
    for one in [*found["front"], *(one for one in found["candidates"] if one["schedule"] == "dynamic")]:
        if one["convert_command"]:
            assert run_line(one["convert_command"], run_cli)["layers"] == one["layers"]
        report = run_line(one["command"], run_cli)
        assert report["gmacs_per_image"] == pytest.approx(one["gmacs"], rel=1e-8)
        assert report["gmacs_done_per_image"] == pytest.approx(one["gmacs_done"], rel=1e-8)


def test_the_checkpoint_of_the_choice_is_there_so_that_its_line_runs_alone(tuned, run_cli, empty_folder):
    folder, _ = tuned
    again = json.loads(run_cli("tune", folder / "m.safetensors", *words_of("2%"), "-o", "t", "--json").out)
    assert again["chosen"]["convert_command"]
    assert run_line(again["chosen"]["command"], run_cli)["num_images"] == 6


def test_the_same_seed_gives_the_same_answer_and_another_may_not(tuned, run_cli, empty_folder):
    folder, found = tuned
    words = ("tune", folder / "m.safetensors", *words_of("5%"), "--json")
    again = json.loads(run_cli(*words, "-o", "again").out)
    wanted = json.loads(json.dumps(found).replace(str(folder / "tuning"), "again"))
    assert again == wanted
    other = json.loads(run_cli(*words, "-o", "other", "--seed", 1).out)
    assert other["chosen"]["error"] != found["chosen"]["error"]


def test_a_tuning_that_was_cut_off_goes_on_to_the_same_answer(tuned, run_cli, tmp_path):
    folder, found = tuned
    part = tmp_path / "tuning"
    shutil.copytree(folder / "tuning", part)
    for name in ("tuning.json", "tuning.png"):
        (part / name).unlink()
    for kept in ("tables/every-1", "runs", "parents"):
        for file in sorted((part / kept).iterdir())[::2]:
            file.unlink()
    left = {file: file.stat().st_mtime_ns for file in (part / "runs").iterdir()}
    words = ("tune", folder / "m.safetensors", *words_of("5%"), "-o", part, "--json")
    again = run_cli(*words).out
    assert json.loads(again.replace(str(part), str(folder / "tuning"))) == found
    assert left == {file: file.stat().st_mtime_ns for file in left}


def test_another_budget_uses_what_was_measured(tuned, run_cli):
    folder, _ = tuned
    tables = {file: file.stat().st_mtime_ns for file in (folder / "tuning/tables").rglob("*.npy")}
    result = run_cli("tune", folder / "m.safetensors", *words_of("3%"), "-o", folder / "tuning", "--json")
    assert json.loads(result.out)["budget"]["value"] == 3
    assert tables == {file: file.stat().st_mtime_ns for file in (folder / "tuning/tables").rglob("*.npy")}


@pytest.mark.parametrize("which", ["cheapest", "second"])
def test_a_budget_of_exactly_what_a_run_costs_allows_that_run(tuned, run_cli, which):
    folder, found = tuned
    rows = [one for one in found["front"] if one["cost"] < found["dense"]["cost"]]
    row = rows[0 if which == "cheapest" else 1]
    words = ("tune", folder / "m.safetensors", "--num-images", 6, "--finalists", 8, "-o", folder / "tuning", "--json")
    for budget in (
        ("--gmacs", repr(row["cost"])),
        ("--saving", repr(100 * (1 - row["cost"] / found["dense"]["cost"]))),
    ):
        result = run_cli(*words, *budget)
        assert result.code == 0, result.err
        assert json.loads(result.out)["chosen"]["error"] <= row["error"]


def test_a_layer_that_attention_cannot_reach_is_found_first_and_chosen(run_cli, empty_folder):
    state = state_of(PIXELS)
    width = PIXELS.hidden_size
    for part in ("weight", "bias"):  # the gate of block 1's attention is shut
        state[f"blocks.1.adaLN_modulation.1.{part}"][2 * width : 3 * width] = 0
    save_checkpoint("planted.safetensors", PIXELS, state, sampling=SAMPLING)
    report = json.loads(run_cli("tune", "planted.safetensors", *words_of("3%"), "--json").out)
    assert [row["layer"] for row in report["layer_order"]] == [1, 0]
    assert report["layer_order"][0]["error"] == 0 < report["layer_order"][1]["error"]
    assert report["chosen"]["layers"] == [1]
    assert report["chosen"]["error"] == 0


@pytest.mark.parametrize(
    ("tensor", "scale", "words"),
    [
        ("final_layer.linear.weight", 3e38, "with full attention"),
        ("final_layer.linear.weight", 1e24, "with full attention"),
        ("blocks.0.attn.dwc.weight", 3e38, "mediators in blocks 0"),
    ],
)
def test_a_model_whose_images_diverge_is_refused_in_one_line(run_cli, empty_folder, tensor, scale, words):
    state = state_of(PIXELS)
    state[tensor].fill_(scale)
    save_checkpoint("m.safetensors", PIXELS, state, sampling=SAMPLING)
    for _ in range(2):
        result = run_cli("tune", "m.safetensors", *words_of("3%"))
        assert result.code == 3
        assert result.err.startswith("error: image 0 becomes NaN or infinity")
        assert words in result.err
        assert len(result.err.splitlines()) == 2


def test_a_run_that_can_not_be_is_named_and_not_used(tuned, run_cli, tmp_path):
    folder, _ = tuned
    part = tmp_path / "tuning"
    shutil.copytree(folder / "tuning", part)
    file = sorted((part / "runs").iterdir())[0]
    good = json.loads(file.read_text())
    for change in (
        {"moves": good["moves"][1:]},
        {"moves": [[99]] * 6},
        {"moves": [[3, 2, 1, 0]] * 6},
        {"squared_errors": [-1.0] * 6},
        {"squared_errors": ["1"] * 6},
        {"fid": "low"},
    ):
        file.write_text(json.dumps({**good, **change}))
        result = run_cli("tune", folder / "m.safetensors", *words_of("5%"), "-o", part)
        assert result.code == 4, change
        assert f"{file.name} is damaged" in result.err
        assert len(result.err.splitlines()) == 2


@pytest.mark.parametrize("solver", [(), ("--solver", "heun")])
def test_an_ode_is_tuned_with_any_fixed_steps_and_its_command_runs(run_cli, empty_folder, solver):
    save(empty_folder / "m.safetensors", sampling=SAMPLING)
    words = ("tune", "m.safetensors", *words_of("3%"), "--sampler", "ode", "--steps", 6, *solver, "--json")
    result = run_cli(*words)
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["dense"]["error"] == 0
    assert {one["schedule"] for one in found["candidates"]} >= {"full", "static"}
    cost = run_line(found["chosen"]["command"], run_cli)["gmacs_per_image"]
    assert cost == pytest.approx(found["chosen"]["gmacs"], rel=1e-8)


def test_a_dense_checkpoint_gets_the_layers_and_the_ladder(run_cli, empty_folder):
    dense = with_ladder(PIXELS)
    save(empty_folder / "dense.safetensors", dense, sampling=SAMPLING)
    words = ("tune", "dense.safetensors", "--mediators", "1,4", *words_of("2%"), "--json")
    report = json.loads(run_cli(*words).out)
    assert report["settings"]["mediators"] == [1, 4]
    assert report["settings"]["layers"] == [0, 1]
    assert report["chosen"]["convert_command"]
    cost = run_line(report["chosen"]["command"], run_cli)["gmacs_per_image"]
    assert cost == pytest.approx(report["chosen"]["gmacs"], rel=1e-8)
    only = json.loads(run_cli(*words, "--layers", 1, "-o", "only").out)
    assert {tuple(one["layers"]) for one in only["candidates"]} == {(), (1,)}


def test_milliseconds_are_measured_once_and_kept(run_cli, empty_folder):
    save(empty_folder / "m.safetensors", sampling=SAMPLING)
    words = ("tune", "m.safetensors", "--num-images", 4, "--finalists", 4, "--json")
    refused = run_cli(*words, "--ms", 1e-9)
    assert refused.code == 2
    times = json.loads(Path("tuning/times.json").read_text())
    assert set(times["ms_a_pass"]) == {"0", "1", "4", "16"}
    # A toy's mediators may be slower than its attention: the times are made up here, so that none decides the test.
    times["ms_a_pass"] = {"0": 4.0, "1": 1.0, "4": 2.0, "16": 3.0}
    Path("tuning/times.json").write_text(json.dumps(times))
    report = json.loads(run_cli(*words, "--ms", 30).out)
    assert report["dense"]["ms"] == 40
    assert report["chosen"]["cost"] == report["chosen"]["ms"] <= 30
    assert report["timing"]["clock"]
    everywhere = next(one for one in report["candidates"] if one["layers"] == [0, 1] and one["ladder"] == [1])
    assert everywhere["ms"] == 10
    assert "reachable here: --ms from 10" in run_cli(*words, "--ms", 9).err


def test_fid_judges_when_it_is_asked_to(tuned, run_cli):
    folder, found = tuned
    words = ("tune", folder / "m.safetensors", *words_of("5%"), "-o", folder / "tuning")
    result = run_cli(*words, "--metric", "fid", "--json")
    assert "fewer than the 64 dimensions" in result.err
    report = json.loads(result.out)
    allowed = [one for one in report["candidates"] if one["cost"] <= report["budget"]["limit"]]
    assert report["chosen"]["fid"] == min(one["fid"] for one in allowed) > 0
    folder_of_choice = Path(run_line(report["chosen"]["command"], run_cli)["output"])
    score = json.loads(run_cli("fid", folder_of_choice, "digits", "--metrics", "fid", "--json").out)
    assert score["fid"] == pytest.approx(report["chosen"]["fid"], rel=1e-6)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "needs one budget, got none"),
        (("--saving", "5%", "--gmacs", "1"), 2, "got --gmacs 1 and --saving 5%"),
        (("--saving", "lots"), 2, "--saving 'lots'"),
        (("--saving", "120%"), 2, "--saving must be in (0, 100), got 120"),
        (("--saving", "60%"), 2, "reachable here: --saving up to 6."),
        (("--gmacs", "0.0001"), 2, "reachable here: --gmacs from 0.0012"),
        (("--gmacs", "5"), 2, "allows full attention"),
        (("--saving", "5%", "--solver", "dopri5", "--sampler", "ode"), 2, "chooses its own steps"),
        (("--saving", "5%", "--mediators", "9"), 2, "--mediators 9"),
        (("--saving", "5%", "--vae", "no/such"), 2, "this model makes pixels, not latents"),
        (("--saving", "5%", "--layers", "7"), 2, "there is no block 7"),
        (("--saving", "5%", "--layers", "none"), 2, "leaves nothing to choose from"),
        (("--saving", "5%", "--calibrate"), 2, "--calibrate"),
        (("--saving", "5%", "--reference", "digits"), 2, "it is for --metric fid"),
        (("--saving", "5%", "--metric", "fid"), 2, "--metric fid needs a reference"),
    ],
)
def test_what_can_not_be_is_refused_in_one_line_with_a_way_out(words, code, said, run_cli, empty_folder):
    save(empty_folder / "m.safetensors", sampling=SAMPLING)
    result = run_cli("tune", "m.safetensors", *words)
    assert result.code == code
    assert said in result.err
    assert len(result.err.strip().splitlines()) == 2
    assert not list(empty_folder.glob("tuning/*.json")) or "reference" in said


def test_a_folder_that_holds_another_tuning_is_left_alone(tuned, run_cli):
    folder, _ = tuned
    before = sorted((folder / "tuning").rglob("*"))
    result = run_cli("tune", folder / "m.safetensors", *words_of("5%"), "-o", folder / "tuning", "--steps", 11)
    assert result.code == 2
    assert "other settings (sampler)" in result.err
    assert sorted((folder / "tuning").rglob("*")) == before


def test_the_table_names_the_choice_and_its_command(tuned, run_cli):
    folder, found = tuned
    result = run_cli("tune", folder / "m.safetensors", *words_of("5%"), "-o", folder / "tuning")
    assert found["chosen"]["command"] in result.out
