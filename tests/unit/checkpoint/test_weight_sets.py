"""Weights are found by their tensors, under whatever key and prefix they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from medcli.checkpoint.infer import Hints
from medcli.checkpoint.reader import Checkpoint, open_checkpoint
from medcli.errors import CheckpointError
from tests.unit.checkpoint.builders import random_state

STATE, AVERAGE = random_state(seed=1), random_state(seed=2)
BIAS = "final_layer.linear.bias"


def opened(path: Path, content: Any, weights: str | None = "ema") -> Checkpoint:
    torch.save(content, path / "sit.pt")
    return open_checkpoint(path / "sit.pt", hints=Hints(num_heads=2), weights=weights)


def bias_of(checkpoint: Checkpoint) -> torch.Tensor:
    return torch.frombuffer(bytearray(checkpoint.records[BIAS].read()), dtype=torch.float32)


def prefixed(prefix: str, state: dict[str, Any] = STATE) -> dict[str, Any]:
    return {prefix + name: tensor for name, tensor in state.items()}


WRAPPERS = {
    "state_dict": {"state_dict": STATE, "epoch": 3, "best_acc1": 1.0},
    "model_state_dict": {"model_state_dict": STATE, "optimizer_state_dict": {"state": {}}},
    "DeepSpeed": {"module": STATE, "optimizer": None, "ds_version": "0.14"},
    "Lightning": {"state_dict": prefixed("model."), "callbacks": {}, "hyper_parameters": {"lr": 1e-4}, "loops": {}},
    "Lightning with more": {"state_dict": {**prefixed("net.dit."), "loss.weight": torch.ones(2)}},
    "a prefix": prefixed("model."),
    "wrappers and a prefix": prefixed("module._orig_mod.model."),
    "deeper": {"train": {"checkpoint": {"weights": STATE}}},
    "numbers beside": {**STATE, "step": 5, "name": "x", "nothing": None},
    "a tensor of a number beside": {**STATE, "global_step": torch.tensor(5)},
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_one_set_of_a_model_is_found(tmp_path: Path, name: str) -> None:
    checkpoint = opened(tmp_path, WRAPPERS[name])
    assert torch.equal(bias_of(checkpoint), STATE[BIAS])
    assert checkpoint.info.remarks


AVERAGED = {
    "ema_model": {"model": STATE, "ema_model": AVERAGE},
    "ema_state_dict": {"state_dict": STATE, "ema_state_dict": AVERAGE},
    "model_ema": {"model": STATE, "model_ema": AVERAGE},
    "ema-pytorch": {"ema": {**prefixed("online_model."), **prefixed("ema_model.", AVERAGE), "step": torch.tensor(5)}},
    "prefixes": {"state_dict": {**prefixed("model."), **prefixed("ema.", AVERAGE)}},
    "shadow": {"model": STATE, "ema": {"decay": 0.999, "shadow": AVERAGE}},
    "AveragedModel": {"model": STATE, "avg": {"n_averaged": torch.tensor(7), **prefixed("module.", AVERAGE)}},
}


@pytest.mark.parametrize("name", AVERAGED)
def test_averaged_weights_are_told_by_name_or_counter(tmp_path: Path, name: str) -> None:
    assert torch.equal(bias_of(opened(tmp_path, AVERAGED[name])), AVERAGE[BIAS])
    assert torch.equal(bias_of(opened(tmp_path, AVERAGED[name], "model")), STATE[BIAS])


def test_the_reference_codes_keys_are_taken_without_a_remark(tmp_path: Path) -> None:
    for content in (STATE, {"model": STATE, "ema": AVERAGE, "opt": {}}, {"model": STATE, "ema": STATE}):
        assert opened(tmp_path, content).info.remarks == ()


def test_a_safetensors_file_may_have_a_prefix_too(tmp_path: Path) -> None:
    save_file(prefixed("model."), tmp_path / "sit.safetensors")
    checkpoint = open_checkpoint(tmp_path / "sit.safetensors", hints=Hints(num_heads=2))
    assert torch.equal(bias_of(checkpoint), STATE[BIAS])


@pytest.mark.parametrize(
    "content",
    [
        {"first": STATE, "second": AVERAGE},
        {**prefixed("a."), **prefixed("b.", AVERAGE)},
        {**STATE, "model": AVERAGE},
    ],
    ids=["keys", "prefixes", "the file and a key"],
)
def test_of_two_sets_none_is_guessed(tmp_path: Path, content: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="2 sets of weights"):
        opened(tmp_path, content)


def test_an_array_in_a_tensors_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"blocks\.0\.x is a numpy.*, not a tensor"):
        opened(tmp_path, {**STATE, "blocks.0.x": np.ones(300)})


def test_whether_it_is_a_model_at_all_is_asked_first(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.ones(3)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a known model"):
        open_checkpoint(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"blocks.0.other.weight": torch.ones(2)}, "1 unexpected"),
        ({"cls_projectors2.weight": torch.ones(2)}, "is of REG"),
    ],
)
def test_relatives_are_named_and_not_called_damaged(tmp_path: Path, extra: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        opened(tmp_path, {**STATE, **extra})
    assert "download" not in str(caught.value.hint)
