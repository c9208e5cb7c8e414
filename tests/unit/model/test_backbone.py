import dataclasses

import pytest
import torch

from medcli.config import ModelConfig
from medcli.errors import ConfigError
from medcli.model.backbone import DiffusionTransformer, empty_model, initialise
from medcli.model.layout import num_params, tensor_shapes
from medcli.presets import preset_config

DENSE = ModelConfig(family="sit", hidden_size=16, depth=3, num_heads=2, latent_size=8, num_classes=5)
LADDER = dataclasses.replace(DENSE, mediators=(1, 4, 16), mediator_layers=(0, 2))
VARIANTS = {
    "dense": DENSE,
    "dit": dataclasses.replace(DENSE, family="dit"),
    "ladder": LADDER,
    "one count": dataclasses.replace(DENSE, mediators=(4,), mediator_layers=(0, 1, 2)),
    "compressed q and k": dataclasses.replace(DENSE, qk_ratio=0.5),
    "no null class": dataclasses.replace(DENSE, has_null_class=False),
    "mediators beyond the tokens": dataclasses.replace(DENSE, mediators=(25,), mediator_layers=(1,)),
}


def random_model(config: ModelConfig, seed: int = 0) -> DiffusionTransformer:
    """A model in which no tensor is zero, so every path matters."""
    model = DiffusionTransformer(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return model


def inputs(config: ModelConfig, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(batch, config.in_channels, config.latent_size, config.latent_size, generator=generator)
    return latent, torch.rand(batch, generator=generator), torch.arange(batch) % config.num_classes


@pytest.mark.parametrize("name", VARIANTS)
def test_shapes_known_without_building_are_the_models_own(name):
    config = VARIANTS[name]
    built = {key: tuple(value.shape) for key, value in empty_model(config).state_dict().items()}
    assert built == tensor_shapes(config)


@pytest.mark.parametrize(
    ("preset", "count"),
    [("DiT-S/8", 33_148_160), ("SiT-B/2", 130_512_416), ("DiT-L/4", 458_053_760), ("SiT-XL/2", 675_129_632)],
)
def test_parameter_counts_are_the_published_ones(preset, count):
    assert num_params(preset_config(preset)) == count


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_output_shape_is_upstreams(name):
    config = VARIANTS[name]
    out = random_model(config)(*inputs(config))
    assert out.shape == (2, 8 if config.family == "dit" else 4, 8, 8)
    assert out.isfinite().all()


@torch.no_grad()
def test_zero_mediators_run_the_dense_parent_on_the_same_projections():
    ladder = random_model(LADDER)
    dense = DiffusionTransformer(DENSE).eval()
    dense.load_state_dict({key: ladder.state_dict()[key] for key in dense.state_dict()})
    torch.testing.assert_close(ladder(*inputs(DENSE), num_mediators=0), dense(*inputs(DENSE)), rtol=0, atol=0)


@torch.no_grad()
def test_counts_differ_and_none_is_the_largest():
    model = random_model(LADDER)
    outputs = {count: model(*inputs(LADDER), num_mediators=count) for count in (None, 0, 1, 4, 16)}
    assert torch.equal(outputs[None], outputs[16])
    distinct = [outputs[count] for count in (0, 1, 4, 16)]
    assert all(not torch.equal(a, b) for i, a in enumerate(distinct) for b in distinct[:i])


def test_a_count_outside_the_ladder_is_refused():
    with pytest.raises(ConfigError, match=r"9 mediator tokens .*1, 4, 16"):
        random_model(LADDER)(*inputs(LADDER), num_mediators=9)


def test_a_latent_of_another_size_is_refused():
    latent, t, label = inputs(DENSE)
    with pytest.raises(ConfigError, match=r"latent of shape \(2, 4, 4, 8\)"):
        random_model(DENSE)(latent[:, :, :4], t, label)


@torch.no_grad()
def test_kept_biases_follow_the_weights():
    model = random_model(LADDER)
    before = model(*inputs(LADDER), num_mediators=4)
    assert torch.equal(before, model(*inputs(LADDER), num_mediators=4))
    model.blocks[0].attn.ladder["4"].na_bias.add_(1.0 * torch.randn_like(model.blocks[0].attn.ladder["4"].na_bias))
    changed = model(*inputs(LADDER), num_mediators=4)
    assert not torch.equal(before, changed)
    with torch.enable_grad():  # nothing is kept while gradients are wanted
        torch.testing.assert_close(model(*inputs(LADDER), num_mediators=4).detach(), changed, rtol=1e-5, atol=1e-5)


def test_every_table_of_the_count_in_use_gets_a_gradient():
    model = random_model(LADDER)
    model(*inputs(LADDER), num_mediators=4).square().mean().backward()
    for name, parameter in model.named_parameters():
        unused = "ladder" in name and "ladder.4." not in name
        if name != "pos_embed":
            assert (parameter.grad is None) == unused, name


@torch.no_grad()
def test_bfloat16_weights_answer_in_the_latents_type():
    model = random_model(LADDER)
    expected = model(*inputs(LADDER))
    out = model.to(torch.bfloat16)(*inputs(LADDER))
    assert out.dtype == torch.float32
    assert (out - expected).abs().max() < 0.05 * expected.abs().max()


@torch.no_grad()
def test_a_fresh_network_returns_zero_and_one_seed_gives_one_set_of_weights():
    first, second, other = (DiffusionTransformer(LADDER) for _ in range(3))
    for model, seed in ((first, 0), (second, 0), (other, 1)):
        initialise(model, seed)
    assert first(*inputs(LADDER)).abs().max() == 0
    same = {key: torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items()}
    assert all(same.values())
    assert not torch.equal(first.blocks[0].attn.qkv.weight, other.blocks[0].attn.qkv.weight)


def test_fresh_weights_have_the_references_spread():
    model = DiffusionTransformer(dataclasses.replace(LADDER, hidden_size=64, num_heads=4, num_classes=500))
    initialise(model, 0)
    block = model.blocks[0]
    bound = (6 / (64 + 3 * 64)) ** 0.5
    assert 0.95 * bound < block.attn.qkv.weight.abs().max() <= bound
    assert 0.3 < block.attn.dwc.weight.abs().max() <= 1 / 3
    for table in (model.y_embedder.embedding_table.weight, model.t_embedder.mlp[0].weight):
        assert table.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.attn.ladder["16"].an_bias.std().item() == pytest.approx(0.02, rel=0.1)
    assert block.adaLN_modulation[1].weight.abs().max() == 0
    assert block.attn.qkv.bias.abs().max() == 0
