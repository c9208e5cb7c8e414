"""`medcli inspect` as a user sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import medcli
from medcli.checkpoint.reader import describe
from tests.conftest import RunCli
from tests.unit.checkpoint.builders import GOLDEN, save_training

KEYS = {
    "family",
    "preset",
    "layout",
    "resolution_px",
    "latent_size",
    "patch_size",
    "hidden_size",
    "depth",
    "num_heads",
    "num_classes",
    "learn_sigma",
    "num_params",
    "mediators",
    "mediator_layers",
    "weights_available",
    "autoencoder",
    "gmacs",
}
FILES = GOLDEN / "checkpoints"


def test_json_has_the_keys_of_the_contract(run_cli: RunCli) -> None:
    result = run_cli("inspect", FILES / "mediator_epoch_004.pt", "--json")
    report = json.loads(result.out)
    assert result.code == 0
    assert set(report) == KEYS | {"sampling"}
    assert report["sampling"] == {"path": "linear", "prediction": "velocity"}
    assert report == report | {
        "family": "sit",
        "layout": "training",
        "resolution_px": 64,
        "hidden_size": 16,
        "depth": 2,
        "num_heads": 2,
        "num_classes": 6,
        "learn_sigma": True,
        "num_params": 17952,
        "mediators": [4],
        "mediator_layers": [0, 1],
        "weights_available": ["ema", "model"],
        "autoencoder": "stabilityai/sd-vae-ft-ema",
    }
    config = describe(FILES / "mediator_epoch_004.pt").config
    assert report["gmacs"] == pytest.approx(medcli.count_macs(config) / 1e9)


@pytest.mark.parametrize(
    ("name", "layout"), [("dit_raw.pt", "official"), ("diffusers_dit", "diffusers"), ("sit_train.pt", "training")]
)
def test_every_layout_is_told(run_cli: RunCli, name: str, layout: str) -> None:
    result = run_cli("inspect", FILES / name, "--heads", 2, "--json")
    assert json.loads(result.out)["layout"] == layout


def test_our_own_layout_is_told(empty_folder: Path, run_cli: RunCli) -> None:
    run_cli("convert", FILES / "mediator_epoch_004.pt", "-o", "x.safetensors")
    report = json.loads(run_cli("inspect", "x.safetensors", "--json").out)
    assert (report["layout"], report["weights_available"]) == ("medcli", ["ema"])


def test_a_training_checkpoint_without_averages_is_told_too(empty_folder: Path, run_cli: RunCli) -> None:
    save_training(empty_folder / "x.pt", groups=("model", "opt"))
    report = json.loads(run_cli("inspect", "x.pt", "--heads", 2, "--json").out)
    assert report["weights_available"] == ["model"]


def test_people_get_one_line_a_value(run_cli: RunCli) -> None:
    result = run_cli("inspect", FILES / "diffusers_dit")
    assert result.code == 0
    assert [line.split()[0] for line in result.out.splitlines()[:3]] == ["family", "preset", "layout"]
    assert result.out.splitlines()[0].split() == ["family", "dit"]


def test_people_read_blocks_as_ranges(run_cli: RunCli) -> None:
    assert any(line.split() == ["mediator", "layers", "0-3"] for line in run_cli("inspect", "digits").out.splitlines())
