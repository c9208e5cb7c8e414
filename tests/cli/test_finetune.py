"""`medcli finetune` through the real program, on a digits model small enough to train in a test."""

import dataclasses
import json

import pytest
import torch

from medcli.checkpoint.reader import describe
from medcli.checkpoint.writer import save_checkpoint
from medcli.model.backbone import DiffusionTransformer
from medcli.model.init import initialise
from medcli.workflows.digits_model import MODEL, SAMPLING

SMALL = dataclasses.replace(MODEL, hidden_size=16, depth=2, num_heads=2, mediator_layers=(0, 1))


@pytest.fixture
def small_model(empty_folder):
    model = DiffusionTransformer(SMALL)
    initialise(model, 0)
    save_checkpoint("small.safetensors", SMALL, model.state_dict(), sampling=SAMPLING, reference="digits")
    return empty_folder / "small.safetensors"


def train(run_cli, *words):
    return run_cli("finetune", "small.safetensors", "--global-batch-size", 8, "--save-every", 2, "--json", *words)


def test_the_result_is_a_checkpoint_that_samples_and_scores(run_cli, small_model):
    report = json.loads(train(run_cli, "--steps", 4, "-o", "run").out)
    assert report["entries"] == [0, 1, 4, 16]
    assert report["num_images"] == 1797
    info = describe(report["output"])
    assert info.config == SMALL
    assert dict(info.sampling) == SAMPLING
    assert info.training["steps"] == 4
    sampled = run_cli("sample", report["output"], "--num-images", 2, "--steps", 4, "-o", "s", "--json")
    assert json.loads(sampled.out)["num_images"] == 2


def test_the_same_command_continues_and_ends_where_a_straight_run_does(run_cli, small_model):
    train(run_cli, "--steps", 2, "-o", "halves")
    continued = json.loads(train(run_cli, "--steps", 4, "-o", "halves").out)
    straight = json.loads(train(run_cli, "--steps", 4, "-o", "straight").out)
    assert continued["sha256"] == straight["sha256"]


def test_training_starts_from_the_checkpoints_weights(run_cli, small_model):
    report = json.loads(train(run_cli, "--steps", 1, "--lr", 1e-9, "--ema", 0, "-o", "run").out)
    from safetensors.torch import load_file

    before, after = load_file(small_model), load_file(report["output"])
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-6)


def test_another_setting_in_the_same_folder_is_refused_and_loses_nothing(run_cli, small_model):
    train(run_cli, "--steps", 2, "-o", "run")
    kept = (small_model.parent / "run/checkpoint.safetensors").read_bytes()
    result = train(run_cli, "--steps", 2, "--lr", 1e-3, "-o", "run")
    assert result.code == 3
    assert result.err.splitlines() == [
        "error: run holds a run with another lr",
        "hint: choose another --output, or the settings it was started with",
    ]
    assert (small_model.parent / "run/checkpoint.safetensors").read_bytes() == kept


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["--data", "imagenet"], 4, "unknown data set 'imagenet'"),
        (["--lr", "-1"], 2, "--lr must be a positive number, got -1.0"),
        (["--lr", "nan"], 2, "--lr must be a positive number, got nan"),
        (["--ema", "1"], 2, "--ema must be in [0, 1), got 1.0"),
        (["--global-batch-size", "3"], 2, "a batch of 3 cannot give each of 4 ladder entries an image"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(run_cli, small_model, words, code, error):
    result = run_cli("finetune", "small.safetensors", "-o", "run", *words)
    assert result.code == code
    assert result.err.startswith(f"error: {error}")
    assert [line.split(":")[0] for line in result.err.splitlines()] == ["error", "hint"]
    assert not (small_model.parent / "run").exists()


def test_a_model_of_other_images_is_refused(run_cli, empty_folder):
    config = dataclasses.replace(SMALL, latent_size=4)
    model = DiffusionTransformer(config)
    initialise(model, 0)
    save_checkpoint("other.safetensors", config, model.state_dict())
    result = run_cli("finetune", "other.safetensors", "-o", "run")
    assert result.code == 4
    assert "the digits are (1, 8, 8) pixels, the model takes (1, 4, 4) pixels" in result.err
    assert not (empty_folder / "run").exists()
