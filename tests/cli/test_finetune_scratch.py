"""Networks from scratch: sizes on the command line, models of pixels, positions of another resolution."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from medcli.checkpoint.reader import describe
from medcli.model.grid_tables import position_table
from tests.unit.data.tiny_data import save_classes

SIZE = ("--width", 16, "--depth", 2, "--heads", 2)
RUN = ("--steps", 2, "--global-batch-size", 4, "--preview-every", 0, "--ema", 0)


def save_grey(folder, side_px=8):
    for name in ("coat", "shoe"):
        (folder / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.full((side_px, side_px), 60 * number, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.fixture
def clothes(empty_folder):
    save_grey(empty_folder / "clothes")
    return empty_folder / "clothes"


def trained(run_cli, *words, output="run"):
    result = run_cli("finetune", "--data", "clothes", *RUN, *words, "-o", output, "--json")
    assert result.code == 0, result.err
    return describe(json.loads(result.out)["output"]).config


def test_a_folder_of_grey_images_makes_a_model_of_its_pixels(run_cli, clothes):
    config = trained(run_cli, *SIZE, "--patch", 4, "--no-learn-sigma")
    assert (config.family, config.hidden_size, config.depth, config.num_heads, config.patch_size) == (
        "sit",
        16,
        2,
        2,
        4,
    )
    assert (config.in_channels, config.autoencoder, config.resolution_px) == (1, None, 8)
    assert (config.num_classes, config.learn_sigma) == (2, False)


def test_sizes_replace_a_presets(run_cli, clothes):
    config = trained(run_cli, "--preset", "DiT-S/4", "--width", 16, "--depth", 3, "--heads", 4)
    assert (config.family, config.hidden_size, config.depth, config.num_heads, config.patch_size) == (
        "dit",
        16,
        3,
        4,
        4,
    )
    assert config.learn_sigma


def test_training_begins_small_with_the_positions_of_the_whole_image(run_cli, clothes):
    low = trained(run_cli, *SIZE, "--res", 4, "--positions-res", 8, output="low")
    assert (low.resolution_px, low.positions_side) == (4, 4)
    table = load_file("low/checkpoint.safetensors")["pos_embed"][0]
    np.testing.assert_allclose(table[:2, 0].numpy(), np.sin([0.5, 2.5]), atol=1e-6)
    whole = trained(run_cli, "low/checkpoint.safetensors", "--res", 8)
    assert (whole.resolution_px, whole.positions_side) == (8, 0)
    table = load_file("run/checkpoint.safetensors")["pos_embed"][0].numpy()
    np.testing.assert_array_equal(table, position_table(16, 4))
    anew = trained(run_cli, "low/checkpoint.safetensors", "--res", 16, "--positions", "anew", output="anew")
    assert anew.positions_side == 0
    assert trained(run_cli, "run/checkpoint.safetensors", "--res", 16, output="large").positions_side == 4


def test_a_rising_and_falling_learning_rate_may_change_in_a_new_folder(run_cli, clothes):
    trained(run_cli, *SIZE, "--lr-warmup", 1, "--lr-decay", "cosine", "--lr-end", "1e-5")
    record = describe("run/checkpoint.safetensors").training
    assert (record["lr_warmup"], record["lr_decay"], record["lr_end"], record["steps of the decay"]) == (
        1,
        "cosine",
        1e-5,
        2,
    )
    other = ("finetune", "--data", "clothes", *SIZE, *RUN, "--lr-decay", "none")
    refused = run_cli(*other, "-o", "run")
    assert (refused.code, "lr decay cosine, not none" in refused.err) == (2, True), refused.err
    resumed = run_cli(*other, "--steps", 3, "--resume", "run", "-o", "more")
    assert resumed.code == 0, resumed.err
    assert "the new values are used" in resumed.err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--width", 16), "a network from scratch needs --depth and --heads"),
        (("--width", 18, "--depth", 2, "--heads", 4), "width 18 must be a multiple of 4 and of the 4 heads"),
        ((*SIZE, "--channels", 3), "--channels 3, but the images of clothes are grey"),
        ((*SIZE, "--channels", 2, "--vae", "none"), "--channels 2"),
        (
            ("--preset", "SiT-S/2", "--data", "digits", "--channels", 3),
            "--channels 3, but the images of digits are grey",
        ),
        (("--preset", "EDT-S/2", "--width", 16), "an EDT has a width, a depth and heads for each stage"),
        (("--preset", "SiT-S/2", "--family", "dit"), "--preset SiT-S/2 is of family sit, not dit"),
        ((*SIZE, "--res", 8, "--positions", "linear"), "--positions 'linear': expected one of interpolate, anew"),
        ((*SIZE, "--positions", "anew"), "--positions does nothing without --res"),
        ((*SIZE, "--lr-decay", "linear"), "--lr-decay 'linear' is not none, cosine, or X,STEPS"),
        ((*SIZE, "--lr-end", "1e-5"), "--lr-end does nothing with the default --lr-decay none"),
        ((*SIZE, "--lr-decay", "cosine", "--lr-end", 1), "--lr-end 1 is above --lr"),
        ((*SIZE, "--lr-warmup", 2), "--lr-warmup 2 leaves none of 2 steps"),
        (("low.safetensors", "--depth", 2), "both a checkpoint (low.safetensors) and --depth 2 are given"),
    ],
)
def test_contradictions_are_refused_before_anything_is_written(run_cli, clothes, words, error):
    result = run_cli("finetune", "--data", "clothes", *RUN, *words, "-o", "run")
    assert (result.code, error in result.err) == (2, True), result.err
    assert len(result.err.splitlines()) <= 2
    assert [file.name for file in clothes.parent.iterdir()] == ["clothes"]


def test_colour_images_make_a_model_of_colour_pixels_on_demand(run_cli, empty_folder):
    save_classes(empty_folder / "clothes", {"cat": 3, "dog": 3}, size=(8, 8))
    config = trained(run_cli, *SIZE, "--channels", 3)
    assert (config.in_channels, config.autoencoder, config.resolution_px) == (3, None, 8)
