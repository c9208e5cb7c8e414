"""The Python surface: new, save and load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import medcli
from medcli.errors import CheckpointError, ConfigError, EnvironmentProblem
from medcli.presets import preset_config
from tests.unit.engine.tiny import PIXELS, model_of

EDT = medcli.ModelConfig(
    family="edt", hidden_size=16, depth=3, num_heads=2, latent_size=16, num_classes=3, mediators=(1, 4),
    mediator_layers=(0, 2), stage_depths=(1, 1, 1), stage_widths=(16, 24, 16), stage_heads=(2, 3, 2),
)  # fmt: skip
MDT = replace(preset_config("MDTv2-S/2"), hidden_size=16, num_heads=2, depth=5, decoder_depth=1, latent_size=8)


@pytest.mark.parametrize("config", [PIXELS, replace(PIXELS, mediators=(), mediator_layers=()), EDT, MDT])
def test_load_gives_back_what_save_wrote_bit_for_bit(tmp_path: Path, config: medcli.ModelConfig) -> None:
    model = medcli.new(config, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape))
    medcli.save(model, tmp_path / "model.safetensors")
    loaded = medcli.load(tmp_path / "model.safetensors")
    assert loaded.config == config
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_new_weights_follow_from_the_seed_and_leave_torchs_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, again, other = (medcli.new(PIXELS, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])


def test_a_new_model_returns_zeros_as_upstreams_initialisation_has_it() -> None:
    model = medcli.new(PIXELS)
    assert not model(torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([0, 1])).any()
    assert not model.training


def test_save_replaces_a_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_text("something else")
    medcli.save(model_of(PIXELS), str(file))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert medcli.load(str(file)).config == PIXELS


def test_save_refuses_weights_that_are_not_numbers(tmp_path: Path) -> None:
    model = medcli.new(PIXELS)
    with torch.no_grad():
        model.x_embedder.proj.bias[0] = float("nan")
    with pytest.raises(CheckpointError, match="NaN"):
        medcli.save(model, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: medcli.new("SiT-S/2"), "expected medcli.ModelConfig, got str 'SiT-S/2'"),
        (lambda: medcli.sample("digits"), "expected a model of medcli.load or medcli.new, got str 'digits'"),
        (lambda: medcli.save(torch.nn.Identity(), "x.safetensors"), "got Identity"),
        (lambda: medcli.count_macs("SiT-S/2"), "got str 'SiT-S/2'"),
        (lambda: medcli.load("digits", weights="best"), "weights"),
        (lambda: medcli.load("digits", device="gpu"), "unknown device 'gpu'"),
        (lambda: medcli.load("digits", dtype="bf16"), "dtype 'bf16' is not a type of torch"),
        (lambda: medcli.load_autoencoder("x", device="gpu"), "unknown device 'gpu'"),
    ],
)
def test_a_wrong_argument_is_named(call: Callable[[], object], says: str, empty_folder: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        call()
    assert not list(empty_folder.iterdir())


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(EnvironmentProblem, match="device cuda:77 is not available"):
        medcli.load("digits", device="cuda:77")


def test_completion_offers_the_public_names_alone() -> None:
    assert dir(medcli) == sorted(medcli.__all__)
