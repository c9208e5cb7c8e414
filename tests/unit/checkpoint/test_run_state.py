"""A running training can be looked at: its states and its folder are checkpoints."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import medcli
from medcli.checkpoint.reader import describe
from medcli.errors import CheckpointError
from tests.conftest import RunCli

SIZE = (
    "--width",
    "16",
    "--depth",
    "2",
    "--heads",
    "2",
    "--steps",
    "4",
    "--save-every",
    "2",
    "--global-batch-size",
    "4",
)


@pytest.fixture
def run(run_cli: RunCli, empty_folder: Path) -> Path:
    words = ("--preview-every", "0", "--lr", "0.01", "--freeze", "blocks.0", "--prediction", "noise", "--path", "gvp")
    result = run_cli("finetune", *SIZE, *words, "-o", "run")
    assert result.code == 0, result.err
    return empty_folder / "run"


def test_a_state_holds_averaged_and_raw_weights_of_its_model(run: Path) -> None:
    state = run / "state-00000004.safetensors"
    finished = describe(run / "checkpoint.safetensors")
    info = describe(state)
    assert info.config == finished.config
    assert (info.sampling["path"], info.sampling["prediction"]) == ("gvp", "noise")
    assert info.training["steps"] == 4
    averaged, raw = medcli.load(state), medcli.load(state, weights="model")
    stored = load_file(state)
    for name, value in load_file(run / "checkpoint.safetensors").items():
        assert torch.equal(averaged.state_dict()[name], value)
        assert torch.equal(raw.state_dict()[name], stored[f"model.{name}"])
    assert not torch.equal(averaged.blocks[1].attn.qkv.weight, raw.blocks[1].attn.qkv.weight)
    assert torch.equal(averaged.blocks[0].attn.qkv.weight, raw.blocks[0].attn.qkv.weight)  # frozen


def test_a_folder_is_its_newest_model(run: Path, run_cli: RunCli) -> None:
    assert json.loads(run_cli("inspect", "run", "--json").out)["num_params"] == describe(run).num_params
    assert describe(run).path.name == "checkpoint.safetensors"
    (run / "checkpoint.safetensors").unlink()
    assert describe(run).path.name == "state-00000004.safetensors"
    result = run_cli("sample", "run", "--num-images", 1, "--steps", 2, "-o", "s", "--json")
    assert result.code == 0, result.err


def test_a_damaged_header_is_refused(run: Path) -> None:
    state = run / "state-00000002.safetensors"
    save_file(load_file(state), state, metadata={"medcli_training": "{}"})
    with pytest.raises(CheckpointError, match="damaged header of a training run"):
        describe(state)
