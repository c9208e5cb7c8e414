"""`medcli finetune` through the real program, on networks small enough to train in a test."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from digits_model import MODEL, SAMPLING
from medcli import presets
from medcli.checkpoint.reader import describe
from medcli.checkpoint.writer import save_checkpoint
from medcli.errors import ConfigError
from medcli.training.config import TrainConfig
from medcli.workflows.finetune import run as finetune_run
from medcli.workflows.finetune.loss import teacher_of
from medcli.workflows.finetune.previews import Previews
from tests.unit.data.test_autoencoder import save_tiny_autoencoder
from tests.unit.data.tiny_data import save_classes
from tests.unit.training.small_models import EDT_MODEL, MDT_MODEL, shaken

SMALL = dataclasses.replace(MODEL, hidden_size=16, depth=2, num_heads=2, mediators=(1, 4), mediator_layers=(0,))


@pytest.fixture
def small_model(empty_folder):
    save_checkpoint("small.safetensors", SMALL, shaken(SMALL).state_dict(), sampling=SAMPLING | {"rho": [0.3]})
    return empty_folder / "small.safetensors"


@pytest.fixture
def tiny_preset(monkeypatch):
    """A size that trains in a test."""
    monkeypatch.setitem(presets.SIZES, "T", presets.Size(2, 16, 2))
    return "SiT-T/2"


def train(run_cli, *words, start=("small.safetensors",)):
    """Four steps without pictures, where the words do not say otherwise."""
    usual = {"--data": "digits", "--global-batch-size": 8, "--preview-every": 0, "--steps": 4, "--lr": 1e-3, "--ema": 0}
    usual["-o"] = "run"
    given = [part for pair in usual.items() if pair[0] not in words for part in pair]
    return run_cli("finetune", *start, *given, *words)


def trained(run_cli, *words, start=("small.safetensors",)):
    result = train(run_cli, *words, "--json", start=start)
    assert result.code == 0, result.err
    return json.loads(result.out)


def changed(before, report):
    """Names of tensors that are not what they were."""
    old, new = load_file(before), load_file(report["output"])
    return {name for name in old if not torch.equal(old[name], new[name])}


def test_the_result_is_a_checkpoint_that_samples_and_scores(run_cli, small_model):
    report = trained(run_cli)
    assert report["entries"] == [0, 1, 4]
    assert report["num_images"] == 1797
    info = describe(report["output"])
    assert info.config == SMALL
    assert info.sampling["rho"] == [0.3]
    assert (info.reference, info.training["steps"], info.training["start"]) == ("digits", 4, "small.safetensors")
    sampled = run_cli("sample", report["output"], "--num-images", 10, "--steps", 4, "-o", "s", "--json")
    assert json.loads(sampled.out)["num_images"] == 10
    assert json.loads(run_cli("fid", "s", "--metrics", "fid", "--json").out)["fid"] > 0
    assert json.loads(run_cli("flops", report["output"], "--json").out)["rows"][0]["model"] == "checkpoint.safetensors"


def test_a_run_leaves_what_repeats_it(run_cli, small_model):
    report = trained(run_cli, "--preview-every", 2, "--save-every", 2, "--seed", 5)
    folder = small_model.parent / "run"
    record = json.loads((folder / "config.json").read_text())
    assert record["command"].startswith("medcli finetune small.safetensors --data digits --steps 4 ")
    assert record["training"]["seed"] == 5
    assert record["data"]["name"] == "digits"
    assert set(record["versions"]) >= {"medcli", "torch", "python"}
    assert "calibration_images" not in record["request"]  # without effect in this run
    assert run_cli("finetune", "--config", folder / "config.json", "--dry-run", "-o", "again").code == 0
    assert json.loads((folder / "report.json").read_text()) == report
    assert sorted(file.name for file in folder.glob("previews/*")) == ["step-000002.png", "step-000004.png"]


@pytest.mark.parametrize("steps_before_the_kill", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_kill_between_a_state_and_its_picture_costs_no_picture(
    run_cli, small_model, monkeypatch, steps_before_the_kill
):
    words = ("--save-every", 2, "--preview-every", 2, "--steps", 6)
    draw = Previews.draw

    def killed(self, step, weights):
        if step == steps_before_the_kill:
            raise KeyboardInterrupt  # nothing after this line runs, as after SIGKILL
        return draw(self, step, weights)

    monkeypatch.setattr(Previews, "draw", killed)
    assert train(run_cli, *words).code == 130
    monkeypatch.setattr(Previews, "draw", draw)
    trained(run_cli, *words)
    trained(run_cli, *words, "-o", "whole")
    pictures = {
        folder: {file.name: file.read_bytes() for file in (small_model.parent / folder / "previews").iterdir()}
        for folder in ("run", "whole")
    }
    assert pictures["run"] == pictures["whole"]
    assert sorted(pictures["run"]) == ["step-000002.png", "step-000004.png", "step-000006.png"]


def test_pictures_change_no_number(run_cli, small_model):
    without = trained(run_cli, "--save-every", 2, "-o", "without")
    drawn = trained(run_cli, "--save-every", 2, "--preview-every", 1, "-o", "drawn")
    assert without["sha256"] == drawn["sha256"]


def test_the_same_command_continues_and_ends_where_a_straight_run_does(run_cli, small_model):
    trained(run_cli, "--steps", 2, "-o", "halves")
    continued = trained(run_cli, "-o", "halves")
    straight = trained(run_cli, "-o", "straight")
    assert continued["sha256"] == straight["sha256"]
    assert json.loads((small_model.parent / "halves/config.json").read_text())["training"]["steps"] == 4


def test_resume_never_starts_over(run_cli, small_model):
    trained(run_cli, "--steps", 2, "--lr", 1e-2, "--preview-every", 1)
    again = trained(run_cli, "--resume", "never")
    assert again["sha256"] == trained(run_cli, "-o", "other")["sha256"]
    assert not list(small_model.parent.glob("run/previews/*"))


def test_training_starts_from_the_checkpoints_weights(run_cli, small_model):
    report = trained(run_cli, "--steps", 1, "--lr", 1e-9)
    before, after = load_file(small_model), load_file(report["output"])
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-6)


def test_another_setting_in_the_same_folder_is_refused_and_loses_nothing(run_cli, small_model):
    trained(run_cli)
    kept = {file: file.read_bytes() for file in (small_model.parent / "run").iterdir() if file.is_file()}
    result = train(run_cli, "--lr", 2e-3)
    assert result.code == 2
    assert result.err.splitlines()[-2:] == [
        "error: run was started with lr 0.001, not 0.002",
        "hint: use the settings it was started with, change them with --resume run --output NEW, or start over with "
        "--resume never",
    ]
    assert {file: file.read_bytes() for file in kept} == kept


def test_other_starting_weights_are_another_run(run_cli, small_model):
    trained(run_cli)
    save_checkpoint("other.safetensors", SMALL, shaken(SMALL, seed=1).state_dict())
    result = train(run_cli, start=("other.safetensors",))
    assert (result.code, "was started with other starting weights" in result.err) == (2, True)


def test_people_see_the_loss_and_what_to_do_next(run_cli, small_model):
    result = train(run_cli, "--log-every", 2)
    told = result.err.splitlines()
    assert [line.split(":")[0] for line in told] == ["step 2 of 4", "step 4 of 4", "hint"]
    assert "images/s" in told[0]
    assert told[-1] == "hint: medcli sample run/checkpoint.safetensors"
    assert result.out.startswith("wrote run/checkpoint.safetensors\n4 steps on 1, 4 mediators and full attention")


def test_a_single_count_is_trained_alone_as_in_the_paper(run_cli, small_model):
    result = train(run_cli, "--mediators", 4)
    assert result.code == 0
    assert "the tables for 1 mediators of small.safetensors are left out" in result.err
    assert "4 steps on 4 mediators:" in result.out
    assert "rho" not in describe("run/checkpoint.safetensors").sampling
    assert trained(run_cli, "--mediators", 4, "--train-dense", "-o", "both")["entries"] == [0, 4]
    assert trained(run_cli, "--no-train-dense", "-o", "none")["entries"] == [1, 4]


def test_attention_alone_is_trained_and_parts_stay_frozen(run_cli, small_model):
    report = trained(run_cli, "--train", "attention")
    assert {name.split(".")[0:3][-1] for name in changed(small_model, report)} == {"attn"}
    assert all(name.startswith("blocks.0.attn.") for name in changed(small_model, report))
    frozen = trained(run_cli, "--freeze", "blocks, x_embedder,t_embedder", "-o", "frozen")
    assert {name.split(".")[0] for name in changed(small_model, frozen)} == {"y_embedder", "final_layer"}


def test_another_ladder_and_number_of_classes_are_made_on_the_way(run_cli, small_model):
    result = train(run_cli, "--mediators", "4,16", "--layers", "all", "--num-classes", 12)
    assert result.code == 0
    assert "new tensors start neutral" in result.err
    config = describe("run/checkpoint.safetensors").config
    assert (config.mediators, config.mediator_layers, config.num_classes) == ((4, 16), (0, 1), 12)


def test_a_model_of_pixels_is_trained_from_scratch_on_a_folder_and_moves_to_another_resolution(
    run_cli, empty_folder, tiny_preset
):
    save_classes(empty_folder / "photos", {"cat": 3, "dog": 2}, size=(24, 20))
    words = ("--data", "photos", "--mediators", "4", "--layers", "all")
    first = trained(run_cli, *words, "--preset", tiny_preset, "--vae", "none", "--res", 8, "-o", "low", start=())
    config = describe(first["output"]).config
    assert (config.num_classes, config.in_channels, config.autoencoder, config.resolution_px) == (2, 3, None, 8)
    assert describe(first["output"]).reference is None
    high = trained(run_cli, *words, "--res", 16, "-o", "high", start=("low/checkpoint.safetensors",))
    assert describe(high["output"]).config.resolution_px == 16
    assert describe(high["output"]).training["before"]["steps"] == 4


def test_latents_made_once_are_what_a_model_of_latents_learns(run_cli, empty_folder, tiny_preset):
    save_tiny_autoencoder(empty_folder / "vae")
    save_classes(empty_folder / "photos", {"cat": 3, "dog": 2}, size=(40, 40))
    made = run_cli("latents", "photos", "--vae", "vae", "--res", 32, "--device", "cpu", "-o", "latents", "-q")
    assert made.code == 0, made.err
    result = train(
        run_cli,
        *("--preset", tiny_preset, "--res", 32, "--data", "latents", "--vae", "vae", "--preview-every", 4),
        start=(),
    )
    assert result.code == 0, result.err
    # What decodes the latents is no part of the checkpoint.
    assert result.err.splitlines()[-1] == "hint: medcli sample run/checkpoint.safetensors --vae vae"
    assert (empty_folder / "run/previews/step-000004.png").is_file()
    config = describe("run/checkpoint.safetensors").config
    assert (config.num_classes, config.in_channels, config.latent_size) == (2, 4, 4)


def test_a_preset_learns_the_digits_as_pixels(run_cli, empty_folder, tiny_preset):
    report = trained(run_cli, "--preset", tiny_preset, "--preview-every", 1, start=())
    config = describe(report["output"]).config
    assert (config.in_channels, config.latent_size, config.num_classes, config.mediators) == (1, 8, 10, ())
    assert report["entries"] == [0]
    assert (empty_folder / "run/previews/step-000004.png").is_file()


def test_calibration_control_and_losses_are_reported(run_cli, small_model):
    words = ("--mediators", "4,16", "--calibrate", "--control", "--eval-images", 16, "--steps", 2)
    report = trained(run_cli, *words)
    assert {row["num_mediators"] for row in report["calibration"]["output"]} == {4, 16}
    assert len(report["calibration"]["layers"]) == 2
    losses = report["evaluation"]
    assert set(losses["before"]) == set(losses["after"]) == {"0", "4", "16"}
    assert set(losses["control"]) == {"0"}
    assert describe(report["control"]).config.mediators == ()
    shown = train(run_cli, *words)
    assert shown.code == 0
    assert "before calibration" in shown.out
    assert "control: as many steps with full attention" in shown.out
    assert json.loads((small_model.parent / "run/report.json").read_text())["calibration"] == report["calibration"]


def test_a_control_needs_no_number_of_images(run_cli, small_model):
    report = trained(run_cli, "--control", "--steps", 1)
    assert report["evaluation"]["num_images"] == 512
    assert set(report["evaluation"]["control"]) == {"0"}


def test_the_control_of_a_run_that_resumes_another_resumes_that_ones_control(run_cli, small_model):
    words = ("--control", "--eval-images", 4)
    straight = trained(run_cli, *words, "--steps", 2, "-o", "straight")
    trained(run_cli, *words, "--steps", 1)
    report = trained(run_cli, *words, "--steps", 2, "--resume", "run", "-o", "on")
    assert report["evaluation"] == straight["evaluation"]
    record = json.loads((small_model.parent / "on/control/config.json").read_text())
    assert record["resumed_from"]["checkpoint"] == "run/control/state-00000001.safetensors"
    trained(run_cli, "--steps", 1, "-o", "alone")
    report = trained(run_cli, *words, "--steps", 2, "--resume", "alone", "-o", "first")
    assert report["evaluation"] == straight["evaluation"]


def test_a_teacher_is_distilled(run_cli, small_model):
    plain = trained(run_cli, "--mediators", 4)
    distilled = trained(run_cli, "--mediators", 4, "--distill", "small.safetensors", "-o", "distilled")
    assert plain["loss"] != distilled["loss"]
    save_checkpoint("wide.safetensors", dataclasses.replace(SMALL, num_classes=11), _fresh(num_classes=11))
    refused = train(run_cli, "--distill", "wide.safetensors", "-o", "refused")
    assert (refused.code, "its num classes is 11, the model's 10" in refused.err) == (2, True)


def test_a_teacher_of_another_output_is_refused(run_cli, small_model):
    save_checkpoint("noise.safetensors", SMALL, _fresh(), sampling={"prediction": "noise", "path": "vp"})
    refused = train(run_cli, "--distill", "noise.safetensors")
    told = (
        "noise.safetensors can't teach this model: it predicts noise on the vp path, the model velocity on the linear"
    )
    assert (refused.code, told in refused.err) == (2, True), refused.err
    same = ("--path", "vp", "--prediction", "noise", "--steps", 1)
    assert train(run_cli, "--distill", "noise.safetensors", *same).code == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latent_mean": (0.1, 0.0, 0.0, 0.0)}, "its latent mean is not the model's"),
        ({"latent_std": (1.0, 2.0, 1.0, 1.0)}, "its latent std is not the model's"),
        ({"latent_scale": 0.5}, "its latent scale is 0.5, the model's 0.18215"),
        ({"latent_shift": 0.5}, "its latent shift is 0.5, the model's 0"),
        ({"latent_size": 16}, "its latent size is 16, the model's 8"),
        ({"has_null_class": False}, "has no null class for the labels that are dropped"),
    ],
)
def test_a_teacher_of_other_latents_or_labels_is_refused(empty_folder, changes, words):
    space = {"in_channels": 4, "autoencoder": "x", "latent_downsample": 8, "latent_scale": 0.18215}
    ours = dataclasses.replace(SMALL, **space, latent_mean=(0.0,) * 4, latent_std=(1.0,) * 4)
    theirs = dataclasses.replace(ours, **changes)
    save_checkpoint("teacher.safetensors", theirs, shaken(theirs).state_dict())
    save_checkpoint("twin.safetensors", ours, shaken(ours).state_dict())
    training = TrainConfig(steps=1, label_dropout=0.1)
    assert teacher_of(Path("twin.safetensors"), ours, training).config == ours
    with pytest.raises(ConfigError, match=words):
        teacher_of(Path("teacher.safetensors"), ours, training)
    if not theirs.has_null_class:
        assert teacher_of(Path("teacher.safetensors"), ours, dataclasses.replace(training, label_dropout=0.0))


def test_people_are_told_what_a_run_changes_or_leaves_out(run_cli, small_model):
    save_classes(small_model.parent / "photos", {"cat": 3, "dog": 2}, size=(24, 20))
    words = ("--data", "photos", "--prediction", "noise", "--steps", 1)
    told = train(run_cli, *words).err.splitlines()
    assert "photos has 2 classes, the model 10: the others have no images; --num-classes 2 removes them" in told
    assert (
        "small.safetensors predicts velocity on the linear path; "
        "it is retrained to predict noise on the linear path" in told
    )
    assert not [line for line in train(run_cli, "--steps", 1, "-o", "plain").err.splitlines() if "classes" in line]


def test_classes_that_the_model_knows_under_other_numbers_are_named(run_cli, small_model):
    save_classes(small_model.parent / "photos", {"cat": 3, "dog": 2}, size=(24, 20))
    for names, count in (
        (("dog", "cat", *"cdefghij"), 2),
        (("cat", "Dog", *"cdefghij"), 0),
        (("cat", *"bcdefgh", "dog, hound", "x"), 1),
    ):
        save_checkpoint("named.safetensors", SMALL, _fresh(), class_names=names, force=True)
        told = train(run_cli, "--data", "photos", "--steps", 1, "--resume", "never", start=("named.safetensors",)).err
        assert (f"{count} classes of photos have other numbers in the model" in told) == bool(count)
        assert ("have other numbers" in told) == bool(count)


def _fresh(**changes):
    return shaken(dataclasses.replace(SMALL, **changes)).state_dict()


def test_the_path_it_was_trained_on_is_what_it_samples_by(run_cli, small_model):
    report = trained(run_cli, "--path", "gvp", "--prediction", "noise", "--loss-weight", "likelihood")
    sampling = describe(report["output"]).sampling
    assert (sampling["path"], sampling["prediction"]) == ("gvp", "noise")
    again = trained(run_cli, "-o", "on", start=("run/checkpoint.safetensors",))
    assert describe(again["output"]).training["prediction"] == "noise"


def test_a_dry_run_says_what_would_happen_and_writes_nothing(run_cli, small_model):
    words = ("--dry-run", "--micro-batch-size", 4, "--train", "attention", "--calibrate", "--control")
    result = train(run_cli, *words, "--json")
    plan = json.loads(result.out)
    assert (plan["dry_run"], plan["images_seen"], plan["steps"], plan["output"]) == (True, 32, 4, "run")
    assert plan["epochs"] == pytest.approx(32 / 1797)
    assert plan["num_trained"] + plan["num_frozen"] == plan["memory"]["weights_bytes"] / 4
    assert plan["num_trained"] == sum(group["num_trained"] for group in plan["groups"])
    assert plan["memory"]["total_bytes"] > plan["memory"]["weights_bytes"]
    assert plan["total_secs"] == pytest.approx(4 * plan["step_secs"])
    assert {"config.json", "checkpoint.safetensors", "control/", "calibration.json"} <= set(plan["files"])
    shown = train(run_cli, *words)
    for text in ("attention projections", "peak", "images seen", "measured on a micro-batch of 4"):
        assert text in shown.out
    assert [file.name for file in small_model.parent.iterdir()] == ["small.safetensors"]


def test_a_dry_run_knows_the_steps_that_are_done(run_cli, small_model):
    trained(run_cli)
    plan = json.loads(train(run_cli, "--steps", 10, "--dry-run", "--json").out)
    assert (plan["steps_done"], plan["total_secs"]) == (4, pytest.approx(6 * plan["step_secs"]))


@pytest.mark.parametrize("config", [EDT_MODEL, MDT_MODEL], ids=lambda config: config.family)
def test_other_families_are_planned_and_trained(run_cli, empty_folder, config):
    save_classes(empty_folder / "photos", {"cat": 3, "dog": 2, "eel": 1}, size=(24, 20))
    save_checkpoint("small.safetensors", config, shaken(config).state_dict())
    words = ("--data", "photos", "--mediators", "1,4", "--layers", "0", "--steps", 2)
    plan = json.loads(train(run_cli, *words, "--dry-run", "--json").out)
    report = trained(run_cli, *words)
    assert plan["num_trained"] == report["num_trained"]
    assert describe(report["output"]).config.mediators == (1, 4)
    refused = train(run_cli, *words, "--calibrate", "-o", "calibrated")
    assert (refused.code, f"calibration supports dit and sit models, not {config.family}" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["--data", "imagenet"], 4, "no such data set: imagenet"),
        (["--vae", "no/such"], 2, "this model makes pixels, not latents"),
        (["--lr", "-1"], 2, "--lr must be above 0, got -1.0"),
        (["--lr", "nan"], 2, "--lr must be a finite number, got nan"),
        (["--ema", "1"], 2, "--ema must be in [0, 1), got 1.0"),
        (["--global-batch-size", "2", "--ladder-rule", "split"], 2, "a batch of 2 cannot give each of 3 ladder"),
        (["--mediators", "5"], 2, "mediator count 5 is not a perfect square"),
        (["--num-classes", "9"], 4, "digits has 10 classes, the model 9"),
        (["--res", "4"], 4, "digits holds pixels of shape (1, 8, 8), the model takes (1, 4, 4)"),
        (["--dtype", "fp16"], 2, "--dtype fp16 needs a CUDA device, this run is on cpu"),
        (["--dtype", "fp16", "--dry-run", "--json"], 2, "--dtype fp16 needs a CUDA device, this run is on cpu"),
        (["--device", "tpu"], 2, "unknown device 'tpu'"),
        (
            ["--train", "attention", "--mediators", "none"],
            2,
            "--train attention trains the attention of blocks with mediators",
        ),
        (["--freeze", "block.0"], 2, "--freeze 'block.0': no such tensor or module"),
        (["--calibrate", "--mediators", "none"], 2, "--calibrate fits mediators, and this model has none"),
        (["--no-train-dense", "--mediators", "none"], 2, "there is nothing to train without mediators"),
        (["--distill-weight", "0.3"], 2, "--distill-weight does nothing without --distill"),
        (["--loss-weight", "likelihood"], 2, "--loss-weight likelihood does nothing with --prediction velocity"),
        (["--preset", "SiT-S/2"], 2, "both a checkpoint (small.safetensors) and --preset SiT-S/2 are given"),
        (["--distill", "none.safetensors"], 3, "none.safetensors does not exist"),
        (["--resume", "state.safetensors"], 3, "no training checkpoint at state.safetensors"),
        (["-o", ""], 2, "--output is empty"),
        (["-o", "small.safetensors"], 2, "small.safetensors is a file, expected a folder name"),
        (["--tensorboard"], 5, "--tensorboard needs tensorboard, which is not installed"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(run_cli, small_model, monkeypatch, words, code, error):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard", None)
    result = train(run_cli, *words)
    assert result.code == code
    problem = result.err.splitlines()[-2:]
    assert problem[0].startswith(f"error: {error}") or error in problem[0]
    assert problem[1].startswith("hint: ")
    assert [file.name for file in small_model.parent.iterdir()] == ["small.safetensors"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--preset", "SiT-Q/2"], "unknown preset 'SiT-Q/2'"),
        (["--preset", "SiT-T/2", "--res", "9"], "resolution 9 px is not a positive multiple of 2"),
        (["--preset", "SiT-T/2", "--calibrate", "--mediators", "4"], "this one starts from random weights"),
        (["--preset", "SiT-T/2", "--data", "photos", "--vae", "none"], "a model of pixels needs its resolution"),
        (["--preset", "DiT-T/2", "--path", "gvp"], "--path, --prediction and --loss-weight are for SiT"),
    ],
)
def test_bad_starts_from_scratch_are_refused(run_cli, empty_folder, tiny_preset, words, error):
    result = train(run_cli, *words, start=())
    assert (result.code, error in result.err) == (2, True), result.err
    assert not (empty_folder / "run").exists()


@pytest.mark.parametrize("name", ["state-00000001.safetensors", "metrics.jsonl", "report.json", "control/config.json"])
def test_a_folder_in_the_way_of_a_file_is_named_before_the_run_resumes(run_cli, small_model, name):
    assert train(run_cli, "--steps", 2, "--save-every", 1).code == 0
    place = small_model.parent / "run" / name
    place.unlink(missing_ok=True)
    place.mkdir(parents=True)
    result = train(run_cli, "--steps", 4, *(["--control"] if "control" in name else []))
    assert result.code == 2
    error = f"error: run/{name} is in the way of a file of this run"
    assert result.err.splitlines() == [error, "hint: move it elsewhere"]


def test_a_folder_with_another_checkpoint_is_left_alone(run_cli, small_model):
    (small_model.parent / "run").mkdir()
    precious = small_model.rename(small_model.parent / "run/checkpoint.safetensors")
    before = precious.read_bytes()
    result = train(run_cli, start=("run/checkpoint.safetensors",))
    assert (result.code, "holds a checkpoint.safetensors and no training checkpoint" in result.err) == (2, True)
    assert precious.read_bytes() == before


def test_a_model_without_a_null_class_keeps_its_labels(run_cli, empty_folder):
    config = dataclasses.replace(SMALL, has_null_class=False)
    save_checkpoint("small.safetensors", config, shaken(config).state_dict())
    report = trained(run_cli)
    assert describe(report["output"]).training["label_dropout"] == 0.0
    result = train(run_cli, "--label-dropout", 0.5, "--output", "other")
    assert (result.code, "no null class to drop labels to" in result.err) == (2, True), result.err


def test_latents_of_another_model_are_refused(run_cli, empty_folder):
    config = dataclasses.replace(SMALL, in_channels=4, autoencoder="vae", latent_downsample=8)
    save_checkpoint("latents.safetensors", config, shaken(config).state_dict())
    result = train(run_cli, start=("latents.safetensors",))
    assert result.code == 4
    assert "the digits are pixels, the model takes latents" in result.err


WITHOUT_DATA = ("finetune", "--dry-run", "--json", "--global-batch-size", 8)


def test_without_data_the_set_is_the_one_the_checkpoint_names(run_cli, small_model):
    save_checkpoint("named.safetensors", SMALL, shaken(SMALL).state_dict(), reference="digits")
    result = run_cli(*WITHOUT_DATA, "named.safetensors")
    assert (result.code, json.loads(result.out)["data"], "names no data" in result.err) == (0, "digits", False)


@pytest.mark.parametrize(("side", "data"), [(32, "fashion"), (8, "digits")])
def test_without_data_a_checkpoint_that_names_none_gets_the_set_that_fits_and_a_remark(
    run_cli, empty_folder, side, data
):
    config = dataclasses.replace(SMALL, latent_size=side, patch_size=side // 4)
    save_checkpoint("plain.safetensors", config, shaken(config).state_dict())
    result = run_cli(*WITHOUT_DATA, "plain.safetensors")
    assert (result.code, json.loads(result.out)["data"]) == (0, data), result.err
    assert f"plain.safetensors names no data: it is trained on the bundled {data}" in result.err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"latent_size": 16}, "holds pixels of shape (1, 32, 32), the model takes (1, 16, 16)"),
        ({"latent_size": 32, "patch_size": 8, "in_channels": 3}, "the model takes (3, 32, 32)"),
        ({"latent_size": 32, "patch_size": 8, "num_classes": 3}, "fashion has 10 classes, the model 3"),
        ({"in_channels": 4, "autoencoder": "vae", "latent_downsample": 8}, "the model takes latents"),
    ],
)
def test_without_data_a_model_that_fits_no_bundled_set_is_refused(run_cli, empty_folder, change, said):
    config = dataclasses.replace(SMALL, **change)
    save_checkpoint("other.safetensors", config, shaken(config).state_dict())
    result = run_cli(*WITHOUT_DATA, "other.safetensors")
    assert (result.code, result.out) == (2, "")
    first, hint = result.err.splitlines()
    assert first.startswith("error: other.safetensors names no data")
    assert said in first
    assert hint == "hint: name the data with --data PATH"


def test_training_gets_the_device_of_the_command(run_cli, small_model, monkeypatch):
    devices = []

    def stopped(*arguments, device, **named):
        devices.append(device)
        raise ConfigError("stopped here")

    monkeypatch.setattr(finetune_run, "train", stopped)
    assert train(run_cli, "--device", "cpu").code == 2
    assert devices == [torch.device("cpu")]


def test_the_dense_parent_draws_its_data_and_teaches(run_cli, small_model):
    drawn = ("--data", "self", "--num-images", 6)
    planned = train(run_cli, *drawn, "--dry-run", "--json")
    assert (planned.code, json.loads(planned.out)["num_images"]) == (0, 6), planned.err
    assert "self-data/" in json.loads(planned.out)["files"]
    assert not (small_model.parent / "run").exists()
    report = trained(run_cli, *drawn)
    run = small_model.parent / "run"
    manifest = json.loads((run / "self-data/manifest.json").read_text())
    settings = manifest["settings"]
    assert (settings["sampler"]["sampler"], settings["schedule"]["kind"], settings["guidance"]) == ("ode", "full", None)
    assert json.loads((run / "self-data/latents/sampled.json").read_text())["labels"] == list(range(6))
    record = json.loads((run / "config.json").read_text())
    assert record["request"]["distill"].endswith("small.safetensors")
    assert record["start"]["teacher"]
    assert report["num_images"] == 6
    assert describe(report["output"]).reference == describe(small_model).reference
    pictures = {file.name: file.stat().st_mtime_ns for file in (run / "self-data").glob("0*.png")}
    assert trained(run_cli, *drawn, "--steps", 6)["steps"] == 6  # resumed, nothing drawn again
    assert pictures == {file.name: file.stat().st_mtime_ns for file in (run / "self-data").glob("0*.png")}


@pytest.mark.parametrize(
    ("words", "start", "said"),
    [
        (["--data", "digits", "--num-images", 6], ["small.safetensors"], "it is for --data self"),
        (["--data", "self", "--res", 16], ["small.safetensors"], "draws images for 8"),
        (["--data", "self", "--num-classes", 3], ["small.safetensors"], "draws images for 10"),
        (["--data", "self", "--preset", "SiT-T/2"], [], "starts from random weights"),
    ],
)
def test_self_made_data_need_a_parent_that_draws_them(run_cli, small_model, tiny_preset, words, start, said):
    result = train(run_cli, *words, start=start)
    assert (result.code, len(result.err.splitlines())) == (2, 2), result.err
    assert said in result.err


def test_the_length_may_be_given_in_epochs(run_cli, small_model):
    words = ("small.safetensors", "--data", "digits", "--global-batch-size", 8, "--preview-every", 0, "--epochs")
    result = run_cli("finetune", *words, 0.01, "-o", "run", "--json")
    assert json.loads(result.out)["steps"] == 3  # 17.97 images, 8 a step
    assert run_cli("finetune", "--config", "run/config.json", "-o", "run").code == 0
    both = run_cli("finetune", *words, 2, "--steps", 7, "-o", "both")
    assert (both.code, "--steps 7 and --epochs 2 contradict each other" in both.err) == (2, True)


def test_the_last_line_of_the_log_and_of_the_run_agree(run_cli, small_model):
    result = train(run_cli, "--steps", 4, "--log-every", 2)
    logged = re.findall(r"step 4 of 4: loss (\S+),", result.err)
    assert logged == re.findall(r"4 steps on .*: loss (\S+),", result.out)
