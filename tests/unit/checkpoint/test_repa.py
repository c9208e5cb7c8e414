"""Recognise REPA's files, in every state they are found in, and turn their time round."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import medcli
from medcli.checkpoint.infer import Hints
from medcli.checkpoint.reader import open_checkpoint
from medcli.checkpoint.repa import turned_round
from medcli.checkpoint.writer import record_of
from medcli.errors import CheckpointError
from tests.unit.checkpoint.builders import TINY, random_state

CONFIG = replace(TINY, depth=3, learn_sigma=False)
STATE = random_state(CONFIG)
PROJECTORS = {f"projectors.0.{place}.{kind}": torch.ones(2) for place in (0, 2, 4) for kind in ("weight", "bias")}
NORMS = {
    f"blocks.{block}.attn.{part}_norm.{kind}": torch.ones(8)
    for block in range(3)
    for part in "qk"
    for kind in ("weight", "bias")
}
ARGS = {"enc_type": "dinov2-vit-b", "encoder_depth": 2, "path_type": "linear", "prediction": "v", "num_classes": 6}


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def family_of(path: Path, family: str | None = None) -> tuple[str, bool]:
    """The family, and whether time was turned round."""
    opened = open_checkpoint(path, hints=Hints(family=family, num_heads=2))
    held = torch.frombuffer(bytearray(opened.records["final_layer.linear.bias"].read()), dtype=torch.float32)
    is_turned = not torch.equal(held, STATE["final_layer.linear.bias"])
    assert torch.equal(held, (-1 if is_turned else 1) * STATE["final_layer.linear.bias"])
    return opened.info.config.family, is_turned


def test_the_rewrite_is_the_reversed_field_and_its_own_inverse() -> None:
    records = {name: record_of(name, tensor) for name, tensor in STATE.items()}
    turned, twice = turned_round(records), turned_round(turned_round(records))
    changed = [name for name in records if turned[name] is not records[name]]
    assert changed == ["t_embedder.mlp.0.weight", "final_layer.linear.weight", "final_layer.linear.bias"]
    for name in changed:
        again = torch.frombuffer(bytearray(twice[name].read()), dtype=torch.float32).view(STATE[name].shape)
        torch.testing.assert_close(again, STATE[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "content",
    [
        {**STATE, **PROJECTORS},
        {"ema": {**STATE, **PROJECTORS}, "steps": 4},
        {"ema": STATE, "args": argparse.Namespace(**ARGS)},
        {"ema": STATE, "args": argparse.Namespace(path_type="cosine", prediction="v")},
    ],
    ids=["projectors", "training file", "args alone", "words alone"],
)
def test_projectors_or_settings_prove_it(tmp_path: Path, content: dict[str, Any]) -> None:
    path = saved(tmp_path / "0400000.pt", content)
    assert family_of(path) == ("sit", True)
    assert family_of(path, "repa") == ("sit", True)
    with pytest.raises(CheckpointError, match="is no sit") as caught:
        family_of(path, "sit")
    assert caught.value.hint == "leave --family out"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("sit-xl-repa.pt", STATE),
        ("last.pt", STATE),
        ("REPA_E_sit.pt", STATE),
        ("rae_dit.pt", STATE),
        ("0400000_sit.pt", {"model": STATE, "ema": STATE, "opt": {}, "steps": 400000}),
        ("normed_sit.pt", {**STATE, **NORMS}),
        ("old_sit.pt", {name.replace("blocks.2.", "decoder_blocks.0."): value for name, value in STATE.items()}),
    ],
)
def test_a_stripped_file_is_asked_about_in_doubt(tmp_path: Path, name: str, content: dict[str, Any]) -> None:
    path = saved(tmp_path / name, content)
    with pytest.raises(CheckpointError, match="whose time runs the other way") as caught:
        family_of(path)
    assert caught.value.hint == "pass --family repa or --family sit"
    assert family_of(path, "repa") == ("sit", True)
    if name != "old_sit.pt":
        assert family_of(path, "sit") == ("sit", False)


def test_a_plain_sit_is_not_asked_about(tmp_path: Path) -> None:
    assert family_of(saved(tmp_path / "separate_sit.pt", STATE)) == ("sit", False)
    assert family_of(saved(tmp_path / "x.pt", STATE), "repa") == ("sit", True)


def test_a_file_of_ours_is_not_turned_again(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {**STATE, **PROJECTORS})
    model = medcli.load(path, num_heads=2)
    medcli.save(model, tmp_path / "ours.safetensors")
    assert torch.equal(
        medcli.load(tmp_path / "ours.safetensors").final_layer.linear.bias, model.final_layer.linear.bias
    )
    with pytest.raises(CheckpointError, match="is of family sit, not repa"):
        medcli.load(tmp_path / "ours.safetensors", family="repa")


def test_older_blocks_are_renumbered(tmp_path: Path) -> None:
    old = {name.replace("blocks.2.", "decoder_blocks.0."): value for name, value in STATE.items()}
    path = saved(tmp_path / "a.pt", {"ema": {**old, **PROJECTORS}, "args": argparse.Namespace(**ARGS)})
    plain = saved(tmp_path / "b.pt", {**STATE, **PROJECTORS})
    inputs = torch.randn(2, 4, 16, 16), torch.rand(2), torch.tensor([1, 5])
    with torch.no_grad():
        assert torch.equal(medcli.load(path, num_heads=2)(*inputs), medcli.load(plain, num_heads=2)(*inputs))
    wrong = saved(tmp_path / "c.pt", {"ema": old, "args": argparse.Namespace(**{**ARGS, "encoder_depth": 1})})
    with pytest.raises(CheckpointError, match="has 2 blocks before decoder_blocks, its training settings say 1"):
        family_of(wrong)


def test_repa_es_batch_norm_is_the_statistics_of_latents(tmp_path: Path) -> None:
    norm = {"bn.running_mean": torch.arange(4.0), "bn.running_var": torch.tensor([1.0, 4.0, 9.0, 16.0])}
    content = {**STATE, **PROJECTORS, **norm, "bn.num_batches_tracked": torch.tensor(3)}
    vae = {"encoder.conv_in.weight": torch.ones(2)}
    path = saved(tmp_path / "e.pt", {"model": content, "ema": content, "vae": vae, "discriminator": vae, "steps": 1})
    config = open_checkpoint(path, hints=Hints(num_heads=2)).info.config
    assert (config.latent_mean, config.latent_std) == ((0, 1, 2, 3), (1, 2, 3, 4))
    norm["bn.running_var"][2] = 0
    with pytest.raises(CheckpointError, match="no variances"):
        open_checkpoint(saved(path, {**content, **norm}), hints=Hints(num_heads=2, family="repa"))
