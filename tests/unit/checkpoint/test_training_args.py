"""Settings that a training file carries decide what its weights are read as."""

from __future__ import annotations

import argparse
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from medcli.checkpoint.infer import Hints
from medcli.checkpoint.reader import CheckpointInfo, open_checkpoint
from medcli.errors import CheckpointError
from medcli.network import open_network
from medcli.settings.finetune import FinetuneRequest
from medcli.settings.network import NetworkSource
from medcli.workflows.convert import ConvertRequest, convert
from medcli.workflows.finetune.loss import loss_of
from medcli.workflows.sample.defaults import require_known_training
from tests.unit.checkpoint.builders import TINY, random_state

STATE = random_state()
SIT = {"model": "SiT-S/2", "path_type": "GVP", "prediction": "score"}


def info_of(path: Path, args: Any, name: str = "x.pt", key: str = "args") -> CheckpointInfo:
    torch.save({"model": STATE, "ema": STATE, key: args}, path / name)
    return open_checkpoint(path / name, hints=Hints(num_heads=2)).info


@pytest.mark.parametrize("key", ["args", "config", "cfg", "hyper_parameters"])
@pytest.mark.parametrize(
    "wrap",
    [dict, lambda args: argparse.Namespace(**args), lambda args: SimpleNamespace(**args), lambda args: {"train": args}],
    ids=["dict", "Namespace", "SimpleNamespace", "nested"],
)
def test_path_and_prediction_become_defaults(tmp_path: Path, key: str, wrap: Any) -> None:
    info = info_of(tmp_path, wrap(SIT), key=key)
    assert info.config.family == "sit"
    assert info.sampling == {"path": "gvp", "prediction": "score"}
    assert info.training["args"] == SIT


class OwnConfig(SimpleNamespace):
    """Settings of a training script, pickled as an object of a class of its own."""


class PathType(str, Enum):
    GVP = "GVP"
    SPIRAL = "spiral"


@pytest.mark.parametrize(
    "content",
    [
        {"args": OwnConfig(**SIT)},
        {"args": {name.replace("_", "-"): value for name, value in SIT.items()}},
        {"args": {name: np.str_(value) for name, value in SIT.items()}},
        {"args": SIT | {"path_type": PathType.GVP}},
        {"args": SIT | {"path_type": b"GVP"}},
        {"args": {"lr": 1}, "path_type": "gvp", "prediction": "score"},
        {"options": SIT},
        {"train_args": SIT},
        {"config": {"a": {"b": {"c": {"d": SIT}}}}},
        {"args": SIT, "config": {"transport": {"path_type": "gvp"}}},
    ],
    ids=["own class", "hyphens", "numpy", "enum", "bytes", "beside", "options", "train_args", "deep", "agreeing"],
)
def test_settings_are_found_in_every_form(tmp_path: Path, content: dict[str, Any]) -> None:
    torch.save({"model": STATE, "ema": STATE, **content}, tmp_path / "sit.pt")
    info = open_checkpoint(tmp_path / "sit.pt", hints=Hints(num_heads=2)).info
    assert info.sampling == {"path": "gvp", "prediction": "score"}


@pytest.mark.parametrize(
    "content",
    [
        {"args": SIT, "config": {"transport": {"path_type": "Linear"}}},
        {"args": SIT | {"path_type": PathType.SPIRAL}},
        {"args": SIT | {"path_type": ["GVP"]}},
        {"args": SIT | {"path_type": 2}},
    ],
    ids=["contradiction", "enum", "list", "number"],
)
def test_a_path_that_is_not_clear_is_named_and_not_replaced(tmp_path: Path, content: dict[str, Any]) -> None:
    torch.save({"model": STATE, "ema": STATE, **content}, tmp_path / "sit.pt")
    info = open_checkpoint(tmp_path / "sit.pt", hints=Hints(num_heads=2)).info
    assert (info.sampling, list(info.unknown_sampling)) == ({"prediction": "score"}, ["path"])
    assert any("which medcli does not know" in remark for remark in info.remarks)


def test_values_that_are_not_known_are_named(tmp_path: Path) -> None:
    info = info_of(tmp_path, SIT | {"path_type": "cosine"})
    assert (info.sampling, info.unknown_sampling) == ({"prediction": "score"}, {"path": "cosine"})
    assert any("'cosine'" in remark for remark in info.remarks)


@pytest.mark.parametrize(
    ("args", "name", "family"),
    [
        ({"model": "SiT-S/2"}, "x.pt", "sit"),
        ({"model": "DiT-S/2", "interpolant": "bicubic"}, "x.pt", "dit"),
        ({"path_type": "Linear"}, "x.pt", "sit"),
        ({"model": "mine", "lr": 1.0}, "my_sit.pt", "sit"),
        ({"lr": 1.0}, "x.pt", "dit"),
        ({"model": "SiT-S/2"}, "0050000_sit.pt", "sit"),
    ],
)
def test_the_models_name_decides_first(tmp_path: Path, args: dict[str, Any], name: str, family: str) -> None:
    assert info_of(tmp_path, args, name).config.family == family


def test_a_contradiction_asks_for_the_family(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="sit by its name and a dit") as caught:
        info_of(tmp_path, {"model": "DiT-S/2"}, "my_sit.pt")
    assert "--family" in str(caught.value.hint)
    named = open_checkpoint(tmp_path / "my_sit.pt", hints=Hints(family="dit", num_heads=2))
    assert named.info.config.family == "dit"


def test_a_model_trained_without_dropout_has_no_null_class(tmp_path: Path) -> None:
    rows = TINY.num_classes + 1
    config = info_of(tmp_path, SIT | {"class_dropout_prob": 0.0}).config
    assert (config.num_classes, config.has_null_class) == (rows, False)
    config = info_of(tmp_path, SIT | {"class_dropout_prob": 0.1}).config
    assert (config.num_classes, config.has_null_class) == (rows - 1, True)


def test_the_autoencoder_is_that_of_the_training(tmp_path: Path) -> None:
    assert info_of(tmp_path, SIT | {"vae": "mse"}).config.autoencoder == "stabilityai/sd-vae-ft-mse"
    other = info_of(tmp_path, SIT | {"vae": "other/vae"})
    assert any("other/vae" in remark for remark in other.remarks)


def test_another_image_size_is_named(tmp_path: Path) -> None:
    assert info_of(tmp_path, SIT | {"image_size": TINY.resolution_px}).remarks == ()
    assert any("512 px" in remark for remark in info_of(tmp_path, SIT | {"image_size": 512}).remarks)


def test_a_thousand_rows_are_imagenets_classes(tmp_path: Path) -> None:
    state = {**STATE, "y_embedder.embedding_table.weight": torch.randn(1000, TINY.hidden_size)}
    torch.save(state, tmp_path / "sit.pt")
    info = open_checkpoint(tmp_path / "sit.pt", hints=Hints(num_heads=2)).info
    assert (info.config.num_classes, info.config.has_null_class) == (1000, False)
    assert info.remarks


def test_a_conversion_keeps_what_the_training_settings_say(tmp_path: Path) -> None:
    args = SIT | {"path_type": "cosine", "loss_weight": "velocity"}
    info_of(tmp_path, args)
    source = NetworkSource(checkpoint=tmp_path / "x.pt", heads=2, layers="none")
    convert(ConvertRequest(network=source, output=tmp_path / "x.safetensors"))
    converted = open_network(NetworkSource(checkpoint=tmp_path / "x.safetensors"))
    assert converted.info is not None
    assert converted.info.training["args"] == args
    assert (converted.sampling, converted.info.unknown_sampling) == ({"prediction": "score"}, {"path": "cosine"})
    with pytest.raises(CheckpointError, match="trained with path 'cosine'"):
        require_known_training(converted, SimpleNamespace(path=None, prediction=None))
    require_known_training(converted, SimpleNamespace(path="linear", prediction=None))


@pytest.mark.parametrize(
    ("args", "weighting"),
    [({"loss_weight": "velocity"}, "velocity"), ({"loss_weight": None}, "none"), ({}, "none")],
)
def test_the_loss_weight_of_the_training_is_finetunes_default(
    tmp_path: Path, args: dict[str, Any], weighting: str
) -> None:
    info_of(tmp_path, SIT | args)
    start = open_network(NetworkSource(checkpoint=tmp_path / "x.pt", heads=2))
    assert loss_of(FinetuneRequest(), start).weighting == weighting
    assert loss_of(FinetuneRequest(weighting="likelihood"), start).weighting == "likelihood"
