"""Folders of accelerate, and others with one file of weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medcli.checkpoint.infer import Hints
from medcli.checkpoint.reader import open_checkpoint
from medcli.errors import CheckpointError
from tests.unit.checkpoint.builders import random_state

STATE = random_state()
HINTS = Hints(family="sit", num_heads=2)


def has_the_state(folder: Path) -> bool:
    records = open_checkpoint(folder, hints=HINTS).records
    return all(records[name].read() == tensor.numpy().tobytes() for name, tensor in STATE.items())


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "0050000.pt"])
def test_one_file_of_weights_beside_the_state_of_training(tmp_path: Path, name: str) -> None:
    if name.endswith(".safetensors"):
        save_file(STATE, tmp_path / name)
    else:
        torch.save(STATE, tmp_path / name)
    for other in ("optimizer.bin", "scheduler.bin", "random_states_0.pkl", "latents_stats.pt"):
        torch.save({"state": {}}, tmp_path / other)
    assert has_the_state(tmp_path)


def test_shards_of_accelerate(tmp_path: Path) -> None:
    names, places = list(STATE), {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: STATE[name] for name in part}, tmp_path / file)
        places |= dict.fromkeys(part, file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert has_the_state(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks model-00002-of-00002.safetensors, which its index names"):
        open_checkpoint(tmp_path, hints=HINTS)


def test_of_several_files_none_is_guessed(tmp_path: Path) -> None:
    for name in ("0050000.pt", "0100000.pt"):
        torch.save(STATE, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"holds 2 files of weights \(0050000.pt, 0100000.pt\)"):
        open_checkpoint(tmp_path, hints=HINTS)


def test_a_folder_of_deepspeed_and_that_of_a_step(tmp_path: Path) -> None:
    step = tmp_path / "global_step5"
    step.mkdir()
    torch.save({"module": STATE, "ds_version": "0.14"}, step / "mp_rank_00_model_states.pt")
    torch.save({"optimizer_state_dict": {}}, step / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    (tmp_path / "latest").write_text("global_step5\n")
    assert has_the_state(step)
    assert has_the_state(tmp_path)
    for name in ("..", ".", "", "none", "../" + tmp_path.name, "a\0b", "x" * 10_000):
        (tmp_path / "latest").write_text(name)
        with pytest.raises(CheckpointError, match="without a diffusers model"):
            open_checkpoint(tmp_path, hints=HINTS)


def test_weights_that_zero_3_has_cut_up_are_named(tmp_path: Path) -> None:
    torch.save({"module": {name: torch.empty(0) for name in STATE}}, tmp_path / "mp_rank_00_model_states.pt")
    with pytest.raises(CheckpointError, match="without its numbers, as DeepSpeed's ZeRO-3 saves it") as caught:
        open_checkpoint(tmp_path, hints=HINTS)
    assert "zero_to_fp32.py" in str(caught.value.hint)
