"""Which parameters are trained."""

import dataclasses
import math

import pytest

from medcli.errors import ConfigError
from medcli.model.backbone import DiffusionTransformer
from medcli.model.layout import block_names, num_params, tensor_shapes
from medcli.presets import preset_config
from medcli.training.selection import FIXED, select
from tests.unit.training.small_models import EDT_MODEL, LADDER_MODEL, MDT_MODEL, shaken

DEEP = dataclasses.replace(LADDER_MODEL, depth=11, mediator_layers=(0, 1))


def test_everything_but_the_position_table_is_trained():
    assert select(LADDER_MODEL).trained == frozenset(tensor_shapes(LADDER_MODEL)) - {FIXED}


@pytest.mark.parametrize("config", [LADDER_MODEL, EDT_MODEL, MDT_MODEL], ids=lambda config: config.family)
def test_what_a_family_learns_is_known_without_the_network(config):
    learnt = {name for name, parameter in DiffusionTransformer(config).named_parameters() if parameter.requires_grad}
    assert select(config).trained == learnt


@pytest.mark.parametrize("config", [EDT_MODEL, MDT_MODEL], ids=lambda config: config.family)
def test_attention_of_other_families_is_found_where_it_stands(config):
    mediated = dataclasses.replace(config, mediators=(4,), mediator_layers=(0, config.depth - 1))
    parts = {".".join(name.split(".")[:3]) for name in select(mediated, "attention").trained}
    first, last = block_names(config)[0], block_names(config)[-1]
    assert parts == {f"{first}.attn", f"{last}.attn"}


def test_attention_is_that_of_the_blocks_with_mediators():
    trained = select(DEEP, "attention").trained
    assert {name.split(".")[1] for name in trained} == {"0", "1"}
    assert {name.split(".")[2] for name in trained} == {"attn"}
    assert {"blocks.0.attn.qkv.weight", "blocks.0.attn.dwc.bias", "blocks.1.attn.ladder.4.an_bias"} <= trained


def test_a_part_is_not_what_its_name_begins_with():
    left_out = select(DEEP, "all", ("blocks.1", "y_embedder", "blocks.2.mlp.")).trained
    assert not any(name.startswith(("blocks.1.", "y_embedder.", "blocks.2.mlp.")) for name in left_out)
    assert "blocks.10.mlp.fc1.weight" in left_out
    assert "blocks.2.attn.qkv.weight" in left_out


def test_groups_count_every_parameter_once():
    for config in (EDT_MODEL, MDT_MODEL):
        selection = select(config)
        assert selection.num_trained + selection.num_frozen == num_params(config)
    for config in (LADDER_MODEL, preset_config("SiT-S/2")):
        selection = select(config, "all", ("blocks.0",))
        groups = selection.groups()
        assert selection.num_trained + selection.num_frozen == num_params(config)
        by_name = {group.name: group for group in groups}
        assert ("mediator tables and convolutions" in by_name) == bool(config.mediators)
        mlp = math.prod(tensor_shapes(config)["blocks.0.mlp.fc1.weight"]) * 2 + 5 * config.hidden_size
        assert by_name["MLP"].num_frozen == mlp
        assert by_name["MLP"].num_trained == mlp * (config.depth - 1)


def test_gradients_reach_what_is_selected():
    model = shaken()
    selection = select(LADDER_MODEL, "attention", ("blocks.1",))
    selection.apply(model)
    assert {name for name, value in model.named_parameters() if value.requires_grad} == selection.trained
    select(LADDER_MODEL).apply(model)
    assert not model.pos_embed.requires_grad


@pytest.mark.parametrize(
    ("train", "freeze", "message", "hint"),
    [
        ("half", (), "--train 'half'", None),
        ("all", ("block.0",), "--freeze 'block.0': no such tensor or module", "did you mean blocks.0?"),
        ("all", ("zzz",), "--freeze 'zzz'", "modules are named like blocks.0, blocks.0.mlp or y_embedder"),
        ("all", ("",), "--freeze ''", "modules are named like blocks.0, blocks.0.mlp or y_embedder"),
        ("attention", ("blocks",), "--freeze leaves nothing to train", "freeze fewer modules"),
    ],
)
def test_choices_that_cannot_be_are_refused(train, freeze, message, hint):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")) as caught:
        select(LADDER_MODEL, train, freeze)
    assert caught.value.hint == hint or hint is None


def test_a_dense_model_has_no_attention_to_train_alone():
    with pytest.raises(ConfigError, match="this model has none"):
        select(preset_config("SiT-S/2"), "attention")
