"""Kinds of norm and MLP: their tables describe the modules, and are found by tensor names."""

from __future__ import annotations

import pytest

from medcli.model.part_kinds import MLP_LAYERS, NORMS, first_layer, mlp_of, norm_of
from medcli.model.parts import MLPS, head_norm, token_norm


@pytest.mark.parametrize("kind", NORMS)
def test_a_norm_has_the_parameters_of_its_table_and_is_found_by_them(kind):
    tokens, heads = token_norm(kind, 6), head_norm(kind, 4)
    found = {} if tokens is None else {name: tuple(value.shape) for name, value in tokens.named_parameters()}
    assert found == dict.fromkeys(NORMS[kind].of_tokens, (6,))
    assert {name: tuple(value.shape) for name, value in heads.named_parameters()} == dict.fromkeys(
        NORMS[kind].of_heads, (4,)
    )
    assert norm_of({f"x.norm1.{name}": (6,) for name in found}, "x.norm1") == kind


@pytest.mark.parametrize("kind", MLP_LAYERS)
def test_an_mlp_has_the_layers_of_its_table_and_is_found_by_the_first(kind):
    shapes = {name: tuple(value.shape) for name, value in MLPS[kind](6, 8).named_parameters()}
    layers = MLP_LAYERS[kind](6, 8)
    assert {name.removesuffix(".weight"): size for name, size in shapes.items() if name.endswith(".weight")} == layers
    assert {name.removesuffix(".bias"): size for name, size in shapes.items() if name.endswith(".bias")} == {
        name: (rows,) for name, (rows, _) in layers.items()
    }
    name, rows = first_layer(kind)
    assert layers[name] == (8 * rows, 6)
    assert mlp_of({f"x.mlp.{name}": size for name, size in shapes.items()}, "x.mlp") == kind
