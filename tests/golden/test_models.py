"""The network against tensors recorded from the reference implementations (golden kinds 1 to 4)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from medcli.config import ModelConfig
from medcli.diffusion.guidance import combine
from medcli.model.backbone import DiffusionTransformer, empty_model
from medcli.model.embed import TimestepEmbedder
from medcli.model.grid_tables import position_table
from medcli.model.mediator import MediatorAttention

DATA = Path(__file__).parent / "data"
NETWORKS = ["dit_tiny", "dit_small_norm", "sit_tiny_sigma", "sit_tiny_nosigma", "sit_med_n4", "sit_med_n16"]
ATTENTION_CASES = json.loads((DATA / "mediator_attention_f64/index.json").read_text())


def config_of(family: str, settings: dict) -> ModelConfig:
    count = settings.get("mediator_num")
    return ModelConfig(
        family=family,
        latent_size=settings["input_size"],
        patch_size=settings["patch_size"],
        in_channels=settings["in_channels"],
        hidden_size=settings["hidden_size"],
        depth=settings["depth"],
        num_heads=settings["num_heads"],
        mlp_ratio=settings["mlp_ratio"],
        num_classes=settings["num_classes"],
        learn_sigma=settings["learn_sigma"],
        mediators=(count,) if count else (),
        mediator_layers=tuple(range(settings["depth"])) if count else (),
    )


def load_network(name: str) -> tuple[DiffusionTransformer, dict, dict]:
    """Model, recorded tensors and settings; also proves that upstream's state dict loads with no renaming."""
    settings = json.loads((DATA / name / "config.json").read_text())
    model = empty_model(config_of("dit" if name.startswith("dit") else "sit", settings["model"]))
    model.load_state_dict(load_file(DATA / name / "weights.safetensors"), assign=True)
    return model, load_file(DATA / name / "io.safetensors"), settings


def assert_close(actual: torch.Tensor, expected: torch.Tensor, settings: dict) -> None:
    torch.testing.assert_close(actual, expected, **settings["tolerance"])


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_forward_equals_the_reference(name):
    model, io, settings = load_network(name)
    assert_close(model(io["x"], io["t"], io["y"]), io["out"], settings)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "dit_small_norm"])
@torch.no_grad()
def test_guided_output_equals_the_reference_on_three_and_on_all_channels(name):
    model, io, settings = load_network(name)
    half = len(io["cfg.x"]) // 2
    doubled = torch.cat([io["cfg.x"][:half]] * 2)
    raw = model(doubled, io["cfg.t"], io["cfg.y"])
    assert_close(raw, io["cfg.raw"], settings)
    channels = settings["model"]["in_channels"]
    for scale in settings["cfg_scales"]:
        guided = combine(raw[:half], raw[half:], scale, 3, latent_channels=channels)
        assert_close(guided, io[f"cfg.out_scale_{scale}"][:half], settings)
        guided = combine(raw[:half], raw[half:], scale, None, latent_channels=channels)
        assert_close(guided, io[f"cfg.out_all_channels_scale_{scale}"][:half], settings)


@pytest.mark.parametrize("name", ["dit_tiny", "sit_tiny_sigma", "sit_tiny_nosigma", "sit_med_n4"])
@torch.no_grad()
def test_every_intermediate_equals_the_reference(name):
    model, io, settings = load_network(name)
    seen: dict[str, torch.Tensor] = {}

    def keep(key):
        return lambda module, inputs, output: seen.__setitem__(key, output)

    model.x_embedder.register_forward_hook(keep("patch_tokens"))
    model.t_embedder.register_forward_hook(keep("t_emb"))
    model.y_embedder.register_forward_hook(keep("y_emb"))
    model.final_layer.register_forward_hook(keep("final_tokens"))
    for layer, block in enumerate(model.blocks):
        block.register_forward_hook(keep(f"block_{layer}"))
        block.attn.register_forward_hook(keep(f"attn_{layer}"))
    model(io["x"], io["t"], io["y"])
    seen["t_freq"] = TimestepEmbedder.sinusoids(io["t"])
    recorded = {key.removeprefix("inter."): value for key, value in io.items() if key.startswith("inter.")}
    assert set(recorded) <= set(seen)
    for key, value in recorded.items():
        assert_close(seen[key], value, settings)


@torch.no_grad()
def test_low_resolution_weights_moved_to_a_finer_grid_equal_the_reference():
    settings = json.loads((DATA / "sit_med_n4_hires_32/config.json").read_text())
    weights = load_file(DATA / "sit_med_n4/weights.safetensors")
    weights |= load_file(DATA / "sit_med_n4_hires_32/after_changed.safetensors")
    io = load_file(DATA / "sit_med_n4_hires_32/io.safetensors")
    model = empty_model(config_of("sit", settings["after_model"]))
    model.load_state_dict(weights, assign=True)
    assert_close(model(io["x"], io["t"], io["y"]), io["out"], settings)


@pytest.mark.parametrize("name", ["dit_tiny", "sit_tiny_sigma", "sit_med_n4"])
def test_position_table_equals_the_one_in_the_checkpoint(name):
    weights = load_file(DATA / name / "weights.safetensors")
    settings = json.loads((DATA / name / "config.json").read_text())["model"]
    table = position_table(settings["hidden_size"], settings["input_size"] // settings["patch_size"])
    torch.testing.assert_close(torch.from_numpy(table), weights["pos_embed"][0], rtol=0, atol=1e-7)


@pytest.mark.parametrize("case", ATTENTION_CASES["cases"])
@torch.no_grad()
def test_mediator_attention_in_float64_equals_the_reference_at_every_stage(case):
    settings = ATTENTION_CASES["cases"][case]
    recorded = load_file(DATA / f"mediator_attention_f64/{case}.safetensors")
    count, side = settings["mediator_num"], settings["tokens_side"]
    attention = MediatorAttention(settings["dim"], settings["num_heads"], side, (count,)).double()
    weights = {key.removeprefix("weights."): value for key, value in recorded.items() if key.startswith("weights.")}
    attention.load_state_dict(weights)
    x = recorded["x"]
    query, key, value = attention.project(x)
    scores, shares = attention.scores(query, key, count)
    local = attention.dwc(attention.grid(value))
    stages = {
        "qkv_out": attention.qkv(x),
        "mediator_tokens": attention.pool(query, count),
        "logits_mediator_to_key": scores,
        "attn_mediator_to_key": scores.softmax(-1),
        "logits_query_to_mediator": shares.mT,
        "attn_query_to_mediator": shares.softmax(-2).mT,
        "dwc_out": local,
        "pre_proj": attention.mediate(scores, shares, value) + local.flatten(2).mT,
        "out": attention(x, count),
    }
    for stage, tensor in stages.items():
        torch.testing.assert_close(tensor, recorded[stage], **ATTENTION_CASES["tolerance"], msg=stage)


@pytest.mark.parametrize("case", ATTENTION_CASES["cases"])
@torch.no_grad()
def test_absorbed_attention_in_float64_equals_the_reference(case, monkeypatch):
    settings = ATTENTION_CASES["cases"][case]
    recorded = load_file(DATA / f"mediator_attention_f64/{case}.safetensors")
    count = settings["mediator_num"]
    attention = MediatorAttention(settings["dim"], settings["num_heads"], settings["tokens_side"], (count,)).double()
    weights = {key.removeprefix("weights."): value for key, value in recorded.items() if key.startswith("weights.")}
    attention.load_state_dict(weights)
    monkeypatch.setattr(attention, "absorbs", lambda num_mediators: True)
    scores, shares = attention.absorbed_scores(recorded["x"], count)
    stages = {
        "attn_mediator_to_key": scores.softmax(-1),
        "logits_query_to_mediator": shares.mT,
        "attn_query_to_mediator": shares.softmax(-2).mT,
        "out": attention(recorded["x"], count),
    }
    for stage, tensor in stages.items():
        torch.testing.assert_close(tensor, recorded[stage], **ATTENTION_CASES["tolerance"], msg=stage)
