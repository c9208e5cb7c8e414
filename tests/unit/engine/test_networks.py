import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.fx import GraphModule

from medcli.engine.networks import Guidance, guided, ladder_networks
from medcli.errors import ConfigError, EnvironmentProblem
from tests.unit.engine.tiny import PIXELS, model_of, with_ladder


@torch.no_grad()
def test_a_stage_runs_its_own_count() -> None:
    model = model_of()
    x, t, label = torch.randn(3, 1, 8, 8), torch.rand(3), torch.tensor([0, 1, 2])
    outputs = [network.forward(x, t, label) for network in ladder_networks(model, (0, 1, 4, 16))]
    for count, output in zip((0, 1, 4, 16), outputs, strict=True):
        assert torch.equal(output, model(x, t, label, count))
    assert not torch.allclose(outputs[1], outputs[2], atol=1e-3)


def test_counts_a_model_does_not_hold_are_refused() -> None:
    with pytest.raises(ConfigError, match="not in this model's ladder"):
        ladder_networks(model_of(), (4, 64))


def test_stages_may_be_separate_models_of_any_size_with_the_same_latents_and_classes() -> None:
    models = {count: model_of(with_ladder(PIXELS, count), seed=count) for count in (1, 16)}
    models[0] = model_of(replace(with_ladder(PIXELS, 16), hidden_size=24, depth=3))
    assert [network.num_mediators for network in ladder_networks(models, (1, 16, 0))] == [1, 16, 0]
    for other in ({"num_classes": 9}, {"in_channels": 3}, {"latent_size": 16}):
        models[0] = model_of(replace(with_ladder(PIXELS, 16), **other))
        with pytest.raises(ConfigError, match="other latents or classes"):
            ladder_networks(models, (1, 16, 0))


@torch.no_grad()
def test_guidance_is_the_formula_on_two_single_calls() -> None:
    model = model_of()
    (network,) = ladder_networks(model, (4,))
    x, t, label = torch.randn(3, 1, 8, 8), torch.rand(3), torch.tensor([0, 1, 2])
    cond, null = model(x, t, label, 4), model(x, t, torch.full((3,), 10), 4)
    output = guided(network, label, Guidance(scale=2.5))(x, t)
    torch.testing.assert_close(output, null + 2.5 * (cond - null), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_scale_one_runs_no_null_half() -> None:
    rows = []
    (network,) = ladder_networks(model_of(), (4,))

    def counted(x: torch.Tensor, t: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        rows.append(len(x))
        return network.forward(x, t, label)

    spied, x, t, label = (
        replace(network, forward=counted),
        torch.randn(3, 1, 8, 8),
        torch.rand(3),
        torch.tensor([0, 1, 2]),
    )
    assert torch.equal(guided(spied, label, Guidance())(x, t), network.forward(x, t, label))
    guided(spied, label, Guidance(scale=1.5))(x, t)
    assert rows == [3, 6]


@pytest.mark.slow
@torch.no_grad()
def test_compiled_blocks_share_a_graph_a_kind_and_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = []

    def backend(graph: GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    monkeypatch.setenv("CXX", sys.executable)
    model = model_of(replace(PIXELS, depth=5, mediator_layers=(0, 2, 3)))
    x, t, label = torch.randn(3, 1, 8, 8), torch.rand(3), torch.tensor([0, 1, 2])
    for network in ladder_networks(model, (0, 1, 16), compiled=True):
        before = len(graphs)
        expected = model(x, t, label, network.num_mediators)
        torch.testing.assert_close(network.forward(x, t, label), expected, rtol=1e-5, atol=1e-5)
        # Nothing in a block leaves its graph; position biases are made outside.
        assert len(graphs) - before == 2
        assert not any("interpolate" in str(graph.code) for graph in graphs[before:])


@torch.no_grad()
def test_biases_composed_outside_are_those_of_the_layer() -> None:
    model = model_of(replace(PIXELS, depth=3, mediator_layers=(0, 2)))
    tokens, condition = torch.randn(2, 16, 16), torch.randn(2, 16)
    for count in (0, 1, 16):
        for block in model.blocks:
            biases = block.attn.composed(count)
            assert len(biases) == (2 if block is not model.blocks[1] and count else 0)
            found = block(tokens, condition, count, biases=biases)
            assert torch.equal(found, block(tokens, condition, count))
            if biases:
                assert not torch.equal(found, block(tokens, condition, count, biases=tuple(2 * x for x in biases)))


def test_compiling_without_a_compiler_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(EnvironmentProblem, match="no-such-compiler"):
        ladder_networks(model_of(), (4,), compiled=True)
