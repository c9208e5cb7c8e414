"""What a checkpoint is gets answered from names and shapes, or asked; what does not fit is named."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from medcli.checkpoint.infer import Hints
from medcli.checkpoint.layouts import sniff
from medcli.checkpoint.reader import describe, open_checkpoint
from medcli.checkpoint.tensor_record import from_bytes
from medcli.checkpoint.writer import save_checkpoint
from medcli.cli.app import main
from medcli.config import ModelConfig
from medcli.errors import CheckpointError, ConfigError
from medcli.model.grid_tables import position_table
from medcli.network import open_network
from medcli.settings.network import NetworkSource
from tests.unit.checkpoint.builders import GOLDEN, TINY, random_state, save_flat, save_training

HEADS = Hints(num_heads=2)


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, learn_sigma=False, depth=1, mlp_ratio=2.0, patch_size=4),
        replace(TINY, in_channels=1, autoencoder=None, latent_scale=1.0, latent_downsample=1),
        replace(TINY, mediators=(4,), mediator_layers=(0, 1, 2, 3, 4)),
        replace(TINY, mediators=(1, 4, 16), mediator_layers=(1, 3)),
        replace(TINY, qk_ratio=0.5),
    ],
    ids=["plain", "small", "pixels", "one count", "ladder", "compressed"],
)
def test_the_model_is_read_from_its_tensors(tmp_path: Path, config: ModelConfig) -> None:
    save_flat(tmp_path / "my_sit.pt", config)
    assert open_checkpoint(tmp_path / "my_sit.pt", hints=HEADS).info.config == config


@pytest.mark.parametrize(("width", "heads"), [(384, 6), (768, 12), (1024, 16), (1152, 16)])
def test_heads_of_preset_widths_are_known(tmp_path: Path, width: int, heads: int) -> None:
    config = replace(TINY, hidden_size=width, num_heads=heads, depth=1, latent_size=4)
    save_flat(tmp_path / "sit.pt", config)
    assert describe(tmp_path / "sit.pt").config.num_heads == heads


def test_other_widths_need_the_heads_hint(tmp_path: Path) -> None:
    save_flat(tmp_path / "sit.pt")
    with pytest.raises(CheckpointError, match="width 16") as caught:
        describe(tmp_path / "sit.pt")
    assert "--heads" in str(caught.value.hint)
    with pytest.raises(CheckpointError, match="multiple"):
        describe(tmp_path / "sit.pt", num_heads=3)


def test_bias_tables_tell_the_heads(tmp_path: Path) -> None:
    save_flat(tmp_path / "x.pt", replace(TINY, num_heads=4, mediators=(4,), mediator_layers=(2,)))
    assert describe(tmp_path / "x.pt").config.num_heads == 4


@pytest.mark.parametrize(
    ("name", "family"),
    [("sit_xl.pt", "sit"), ("DiT-XL-2-256x256.pt", "dit"), ("SiT-XL-2-256.pt", "sit"), ("my-dit2.safetensors", "dit")],
)
def test_a_file_name_tells_the_family(tmp_path: Path, name: str, family: str) -> None:
    state = random_state()
    save_file(state, tmp_path / name) if name.endswith("safetensors") else torch.save(state, tmp_path / name)
    assert describe(tmp_path / name, num_heads=2).config.family == family


@pytest.mark.parametrize("name", ["0400000.pt", "transit.pt", "sit-or-dit.pt"])
def test_an_unknown_family_is_asked_for(tmp_path: Path, name: str) -> None:
    save_flat(tmp_path / name)
    with pytest.raises(CheckpointError, match="DiT or a SiT") as caught:
        describe(tmp_path / name, num_heads=2)
    assert caught.value.hint == "pass --family dit or --family sit"
    assert describe(tmp_path / name, num_heads=2, family="dit").config.family == "dit"


@pytest.mark.parametrize(
    ("args", "family"),
    [({"path_type": "Linear"}, "sit"), ({"interpolant": "GVP"}, "sit"), ({"model": "DiT-S/2"}, "dit")],
)
def test_training_settings_tell_the_family(tmp_path: Path, args: dict[str, str], family: str) -> None:
    torch.save({"model": random_state(), "args": argparse.Namespace(**args)}, tmp_path / "0001.pt")
    assert describe(tmp_path / "0001.pt", num_heads=2, weights="model").config.family == family


def test_mediators_tell_the_family(tmp_path: Path) -> None:
    save_flat(tmp_path / "x.pt", replace(TINY, mediators=(4,), mediator_layers=(0,)))
    assert describe(tmp_path / "x.pt").config.family == "sit"


def test_the_null_row_is_assumed_unless_told(tmp_path: Path) -> None:
    save_flat(tmp_path / "sit.pt")
    config = open_checkpoint(tmp_path / "sit.pt", hints=HEADS).info.config
    assert (config.num_classes, config.has_null_class) == (6, True)
    config = open_checkpoint(tmp_path / "sit.pt", hints=Hints(num_heads=2, num_classes=7)).info.config
    assert (config.num_classes, config.has_null_class) == (7, False)


def test_weight_sets_are_told_apart(tmp_path: Path) -> None:
    save_training(tmp_path / "t.pt")
    for weights, seed in (("model", 1), ("ema", 2)):
        opened = open_checkpoint(tmp_path / "t.pt", hints=HEADS, weights=weights)
        record = opened.records["final_layer.linear.bias"]
        expected = random_state(seed=seed)["final_layer.linear.bias"]
        assert opened.info.weights == weights
        assert opened.info.weights_available == ("ema", "model")
        np.testing.assert_array_equal(from_bytes(record.read(), record.dtype, record.shape), expected.numpy())


def test_a_missing_weight_set_is_named(tmp_path: Path) -> None:
    save_training(tmp_path / "0400000.pt", groups=("model", "opt"))
    with pytest.raises(CheckpointError) as caught:
        describe(tmp_path / "0400000.pt", num_heads=2)
    assert str(caught.value) == "0400000.pt has no EMA weights (found: model, opt)"
    assert str(caught.value.hint).startswith("pass --weights model")
    assert describe(tmp_path / "0400000.pt", num_heads=2, weights=None).weights == "model"


def test_a_file_of_one_set_gives_it_whatever_is_asked(tmp_path: Path) -> None:
    save_flat(tmp_path / "sit.pt")
    assert describe(tmp_path / "sit.pt", num_heads=2, weights="ema").weights == "model"


def test_raw_weights_are_not_taken_from_a_file_of_averaged_ones(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "own.safetensors", TINY, random_state(), weights="ema")
    assert describe(tmp_path / "own.safetensors", weights="ema").weights == "ema"
    with pytest.raises(CheckpointError, match="averaged weights alone"):
        describe(tmp_path / "own.safetensors", weights="model")


@pytest.mark.parametrize(
    ("width", "hints", "remark"),
    [
        (384, {"num_heads": 2}, "presets of its width have 6"),
        (384, {"family": "dit"}, "name the model SiT-S/2, it is read as a dit"),
    ],
)
def test_hints_against_what_the_file_suggests_are_remarked(
    tmp_path: Path, width: int, hints: dict[str, Any], remark: str
) -> None:
    save_training(tmp_path / "x.pt", replace(TINY, hidden_size=width, num_heads=6, depth=1))
    assert not describe(tmp_path / "x.pt").remarks
    assert any(remark in each for each in describe(tmp_path / "x.pt", **hints).remarks)


def test_a_missing_position_table_is_made(tmp_path: Path) -> None:
    state = random_state(replace(TINY, mediators=(4,), mediator_layers=(0,)))
    del state["pos_embed"]
    torch.save(state, tmp_path / "x.pt")
    opened = open_checkpoint(tmp_path / "x.pt")
    assert opened.made == ("pos_embed",)
    record = opened.records["pos_embed"]
    np.testing.assert_array_equal(from_bytes(record.read(), "F32", record.shape)[0], position_table(16, 8))


def test_a_resolution_nothing_tells_is_asked_for(tmp_path: Path) -> None:
    state = random_state()
    del state["pos_embed"]
    torch.save(state, tmp_path / "sit.pt")
    with pytest.raises(CheckpointError, match="resolution") as caught:
        open_checkpoint(tmp_path / "sit.pt", hints=HEADS)
    assert "--res" in str(caught.value.hint)
    hints = Hints(num_heads=2, resolution_px=128)
    assert open_checkpoint(tmp_path / "sit.pt", hints=hints).info.config.latent_size == 16


Change = Callable[[dict[str, Any]], object]
CHANGES: list[tuple[Change, str]] = [
    (lambda s: s.pop("blocks.3.mlp.fc1.bias"), "1 missing (blocks.3.mlp.fc1.bias)"),
    (lambda s: s.update(extra=torch.ones(2)), "1 unexpected (extra)"),
    (
        lambda s: s.update({"blocks.4.attn.proj.weight": torch.ones(4, 4)}),
        "blocks.4.attn.proj.weight (4, 4) instead of",
    ),
    (
        lambda s: s.update({"t_embedder.mlp.0.bias": torch.ones(16, dtype=torch.int64)}),
        "I64 (16,) t_embedder.mlp.0.bias",
    ),
    (lambda s: s.pop("x_embedder.proj.weight"), "no tensor x_embedder.proj.weight"),
    (lambda s: s.update({"x_embedder.proj.weight": torch.ones(4)}), "expected 4 axes"),
    (lambda s: s.update(pos_embed=torch.ones(1, 7, 16)), "7 tokens"),
    (
        lambda s: s.update({"blocks.99999999.attn.proj.bias": torch.ones(1)}),
        "1 unexpected (blocks.99999999.attn.proj.bias)",
    ),
    (lambda s: s.update({"module.pos_embed": s["pos_embed"]}), "with and without a wrapper prefix"),
    (lambda s: [s.pop(name) for name in list(s) if ".attn." in name and "blocks.0" not in name], "16 missing"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=[message for _, message in CHANGES])
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, change: Change, message: str) -> None:
    state = random_state()
    change(state)
    torch.save(state, tmp_path / "sit.pt")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path / "sit.pt", hints=HEADS)
    assert message in str(caught.value)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{}, {"a": 1}, [1], {"model": {"a": 1}}, {"model": {1: torch.ones(1)}}])
def test_files_without_a_state_dict_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "sit.pt")
    with pytest.raises(CheckpointError, match="state dict"):
        describe(tmp_path / "sit.pt", weights="model")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\n <html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"hello", "not a checkpoint"),
        (b"\x00" * 100, "not a checkpoint"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "sit.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        describe(tmp_path / "sit.pt")


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    save_flat(tmp_path / "sit_xl.pt")
    with pytest.raises(CheckpointError, match="does not exist") as caught:
        describe(tmp_path / "sit-xl.pt")
    assert caught.value.hint == f"did you mean {tmp_path / 'sit_xl.pt'}?"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "checkpoints" / "diffusers_dit", tmp_path / "dit"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_type": "layer_norm"}, "expected a class-conditional DiT"),
        ({"_class_name": "UNet2DModel"}, "holds a UNet2DModel"),
        ({"num_attention_heads": "2"}, "not positive numbers"),
        ({"num_layers": None}, "not positive numbers"),
        ({"num_layers": 10**9}, None),
        ({"num_layers": 1}, "unexpected"),
        ({"activation_fn": "gelu"}, "activation gelu, a DiT has gelu-approximate"),
    ],
)
def test_a_diffusers_configuration_is_not_trusted(folder: Path, change: dict[str, Any], message: str | None) -> None:
    path = folder / "transformer/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    if message is None:
        assert describe(folder).config.depth == 2
    else:
        with pytest.raises(CheckpointError, match=message):
            describe(folder)


@pytest.mark.parametrize(
    "change",
    [{"prediction_type": "v_prediction"}, {"beta_schedule": "scaled_linear"}, {"_class_name": "FlowMatchEuler"}],
)
def test_a_pipeline_of_another_noise_schedule_is_refused(folder: Path, change: dict[str, Any]) -> None:
    path = folder / "scheduler/scheduler_config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"beta_schedule": "linear", "num_train_timesteps": 1000}))
    describe(folder)
    path.write_text(json.dumps(change))
    with pytest.raises(CheckpointError, match=str(next(iter(change.values())))):
        describe(folder)
    describe(folder / "transformer")


def test_a_folder_without_a_model_or_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="folder without a diffusers model"):
        describe(tmp_path)
    next((folder / "transformer").glob("*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="has no weights"):
        describe(folder)


def test_the_transformer_folder_alone_will_do(folder: Path) -> None:
    assert describe(folder / "transformer").config == describe(folder).config


def sharded(folder: Path) -> Path:
    """Split the weights of a folder into two files and an index."""
    place = folder / "transformer"
    tensors = load_file(place / "diffusion_pytorch_model.safetensors")
    (place / "diffusion_pytorch_model.safetensors").unlink()
    names, places = list(tensors), {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"diffusion_pytorch_model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, place / file)
        places |= dict.fromkeys(part, file)
    index = place / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def test_half_a_set_of_shards_is_one_clear_line(folder: Path) -> None:
    index = sharded(folder)
    held = json.loads(index.read_text())
    index.write_text(json.dumps({"weight_map": {**held["weight_map"], "more.weight": "absent.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"lacks absent.safetensors, which its index names"):
        describe(folder)
    index.write_text(json.dumps(held))
    (shard := index.parent / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=f"lacks {shard.name}, which its index names"):
        describe(folder)
    index.unlink()
    with pytest.raises(CheckpointError, match=r"shards of weights but not their index"):
        describe(folder)


def test_a_safetensors_header_may_be_as_long_as_a_pickles_first_bytes(tmp_path: Path) -> None:
    """0x0280 bytes of header: a pickle of protocol 2 begins with 80 02."""
    path, entry = tmp_path / "sit.safetensors", {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    header = json.dumps(entry).encode().ljust(0x0280)
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert sniff(path) == "safetensors"


@pytest.mark.parametrize("layout", ["bare", "converted"])
def test_a_stride_that_nothing_tells_stays_open(tmp_path: Path, layout: str) -> None:
    """Of a bare file of other channels than Stable Diffusion's; conversion does not make it certain."""
    path = tmp_path / "sit.pt"
    save_flat(path, replace(TINY, in_channels=16))
    if layout == "converted":
        assert main(["convert", str(path), "--heads", "2", "-o", str(tmp_path / "m.safetensors"), "-q"]) == 0
        path = tmp_path / "m.safetensors"
    info = describe(path, num_heads=2)
    assert (info.knows_stride, info.knows_latents) == (False, False)
    assert any("the stride of its" in remark for remark in info.remarks)
    with pytest.raises(ConfigError, match="--res 64: the stride of the"):
        open_network(NetworkSource(checkpoint=path, heads=2, res=64))


def test_the_autoencoders_stride_counts_for_a_resolution(tmp_path: Path) -> None:
    vae = tmp_path / "vae"
    vae.mkdir()
    (vae / "config.json").write_text(
        json.dumps({"latent_channels": 16, "block_out_channels": [4] * 5, "scaling_factor": 0.5, "shift_factor": 0.1})
    )
    save_flat(tmp_path / "sit.pt", replace(TINY, in_channels=16))
    out = tmp_path / "m.safetensors"
    run = ["convert", str(tmp_path / "sit.pt"), "--heads", "2", "--res", "512", "--vae", str(vae), "-o", str(out), "-q"]
    assert main(run) == 0
    info = describe(out)
    assert (info.config.latent_size, info.config.latent_downsample) == (32, 16)
    assert (info.config.latent_scale, info.config.latent_shift) == (0.5, 0.1)
    assert info.knows_latents


def test_shards_hold_the_same_weights_as_one_file(folder: Path) -> None:
    whole = {name: record.read() for name, record in open_checkpoint(folder).records.items()}
    sharded(folder)
    assert {name: record.read() for name, record in open_checkpoint(folder).records.items()} == whole


@pytest.mark.parametrize(
    ("hints", "message"), [({"family": "sit"}, "is no sit"), ({"num_heads": 1}, "has 2 heads, not 1")]
)
def test_a_hint_that_contradicts_a_folder_is_refused(folder: Path, hints: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        describe(folder, **hints)


def test_a_missing_shard_and_one_outside_the_folder_are_named(folder: Path) -> None:
    index = sharded(folder)
    next(index.parent.glob("*-00002-of-*")).unlink()
    with pytest.raises(CheckpointError, match="lacks diffusion_pytorch_model-00002-of-00002"):
        open_checkpoint(folder)
    index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(CheckpointError, match="lacks ../secret"):
        open_checkpoint(folder)


def test_one_variant_is_read_and_of_two_none_is_guessed(folder: Path) -> None:
    file = folder / "transformer/diffusion_pytorch_model.safetensors"
    variant = file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert any("fp16" in remark for remark in describe(folder).remarks)
    shutil.copy(variant, file.with_name("diffusion_pytorch_model.other.safetensors"))
    with pytest.raises(CheckpointError, match="several variants"):
        describe(folder)
