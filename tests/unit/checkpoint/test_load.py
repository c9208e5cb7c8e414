"""Models are built around the file: no random numbers, no copies."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import medcli
from medcli.checkpoint.writer import save_checkpoint
from medcli.errors import CheckpointError, ConfigError
from tests.unit.checkpoint.builders import TINY, random_state, save_flat, save_training


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    save_flat(tmp_path / "sit.pt")
    before = torch.get_rng_state()
    medcli.load(tmp_path / "sit.pt", num_heads=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_package_loads_with_every_keyword_of_the_contract(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.safetensors", TINY, random_state())
    model = medcli.load(
        tmp_path / "x.safetensors", family=None, num_heads=None, weights="ema", device="cpu", dtype=None, amm=None
    )
    assert model.config == TINY
    with pytest.raises(ConfigError, match="AMM blocks"):
        medcli.load(tmp_path / "x.safetensors", amm="average")


def test_parameters_share_one_mapping_of_the_file(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.safetensors", TINY, random_state())
    model = medcli.load(tmp_path / "x.safetensors")
    places = [parameter.data_ptr() for parameter in model.parameters()]
    assert max(places) - min(places) < (tmp_path / "x.safetensors").stat().st_size


def test_writing_to_a_parameter_leaves_the_file_alone(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.safetensors", TINY, random_state())
    before = (tmp_path / "x.safetensors").read_bytes()
    model = medcli.load(tmp_path / "x.safetensors")
    with torch.no_grad():
        model.final_layer.linear.weight.zero_()
    assert (tmp_path / "x.safetensors").read_bytes() == before


def test_dtype_and_gradient_flags(tmp_path: Path) -> None:
    save_flat(tmp_path / "sit.pt")
    model = medcli.load(tmp_path / "sit.pt", num_heads=2, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"pos_embed"}
    assert not model.training


def test_the_python_surface_takes_the_same_hints(tmp_path: Path) -> None:
    save_training(tmp_path / "0001.pt")
    model = medcli.load(tmp_path / "0001.pt", num_heads=2, weights="model")
    assert torch.equal(model.x_embedder.proj.bias, random_state(seed=1)["x_embedder.proj.bias"])


@pytest.mark.parametrize("name", ["blocks.2.attn.qkv.weight", "y_embedder.embedding_table.weight"])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, name: str) -> None:
    state = random_state()
    state[name][1, 2] = float("nan")
    torch.save(state, tmp_path / "sit.pt")
    with pytest.raises(CheckpointError, match=name):
        medcli.load(tmp_path / "sit.pt", num_heads=2)


def test_a_transposed_weight_is_loaded_as_it_was(tmp_path: Path) -> None:
    state = random_state()
    name = "blocks.0.attn.proj.weight"
    torch.save({**state, name: state[name].T.contiguous().T}, tmp_path / "sit.pt")
    assert torch.equal(medcli.load(tmp_path / "sit.pt", num_heads=2).state_dict()[name], state[name])
