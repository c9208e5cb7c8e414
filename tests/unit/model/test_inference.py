"""The forward pass without gradients takes shorter ways; each must be the function that training computes."""

import copy
import dataclasses

import pytest
import torch

from medcli.config import ModelConfig
from medcli.model import mediator
from medcli.model.backbone import DiffusionTransformer, empty_model
from medcli.model.linear import Linear, linear_gelu, modulated_norm
from medcli.model.parts import Mlp

CONFIG = ModelConfig(
    family="sit", hidden_size=32, depth=3, num_heads=2, latent_size=8, num_classes=5, mediators=(4, 16),
    mediator_layers=(0, 2),
)  # fmt: skip
LATENT = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
TOKENS = torch.randn(3, 16, 32, generator=torch.Generator().manual_seed(2))
INPUTS = (LATENT, torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0, 3, 5]))


@pytest.fixture
def model() -> DiffusionTransformer:
    network = DiffusionTransformer(CONFIG).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return network


def assert_same_function(network: DiffusionTransformer, count: int = 4) -> torch.Tensor:
    expected = network(*INPUTS, num_mediators=count).detach()
    with torch.no_grad():
        actual = network(*INPUTS, num_mediators=count)
    assert (actual - expected).abs().max() <= 5e-6 * expected.abs().max()
    return actual


@pytest.mark.parametrize("count", [0, 4, 16])
def test_inference_computes_what_training_computes(model, count):
    assert_same_function(model, count)


@pytest.mark.parametrize("count", [4, 16])
def test_an_image_at_a_time_gives_the_bits_of_all_at_once(model, monkeypatch, count):
    with torch.no_grad():
        for absorb in (True, False):
            assert mediator._goes_by_image(LATENT, LATENT)
            by_image = [block.attn(TOKENS, count, absorb=absorb) for block in model.blocks[::2]]
            with monkeypatch.context() as patch:
                patch.setattr(mediator, "_goes_by_image", lambda *_: False)
                at_once = [block.attn(TOKENS, count, absorb=absorb) for block in model.blocks[::2]]
            assert all(map(torch.equal, by_image, at_once))


def test_a_copy_follows_its_own_weights(model):
    before = assert_same_function(model)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(1.1)
    assert not torch.equal(assert_same_function(changed), before)
    assert torch.equal(assert_same_function(model), before)


@pytest.mark.parametrize("assign", [False, True])
def test_loaded_weights_are_used_at_once(model, assign):
    assert_same_function(model)
    other = {name: tensor * 1.1 for name, tensor in model.state_dict().items()}
    model.load_state_dict(other, assign=assign)
    fresh = empty_model(CONFIG)
    fresh.load_state_dict(other, assign=True)
    assert torch.equal(assert_same_function(model), assert_same_function(fresh))


def test_a_change_of_type_and_back_leaves_no_trace(model):
    rounded = copy.deepcopy(model).to(torch.bfloat16).float()
    model.to(torch.bfloat16)
    with torch.no_grad():
        model(*INPUTS, num_mediators=4)
    assert torch.equal(assert_same_function(model.float()), assert_same_function(rounded))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [0, 4, 16])
@torch.no_grad()
def test_neighbours_and_order_change_no_bit(model, dtype, count):
    model.to(dtype)
    together = model(*INPUTS, num_mediators=count)
    turned = model(*(part.flip(0) for part in INPUTS), num_mediators=count)
    assert torch.equal(turned.flip(0), together)


@torch.no_grad()
def test_automatic_casts_still_apply(model):
    expected = model(*INPUTS, num_mediators=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = model(*INPUTS, num_mediators=4)
        assert Linear(4, 4)(torch.zeros(1, 2, 4)).dtype == torch.bfloat16
    assert 0 < (cast - expected).abs().max() < 0.05 * expected.abs().max()


@torch.no_grad()
def test_inference_mode_computes_the_same(model):
    expected = model(*INPUTS, num_mediators=4)
    with torch.inference_mode():
        assert torch.equal(model(*INPUTS, num_mediators=4), expected)


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 2e-6), (torch.bfloat16, 1e-2)]
)
@torch.no_grad()
def test_a_product_with_gelu_is_the_product_and_the_gelu(monkeypatch, dtype, tolerance, capability):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    layer = Linear(24, 40).double()
    x = torch.randn(2, 5, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    product = x @ layer.weight.T + layer.bias
    expected = torch.nn.functional.gelu(product, approximate="tanh")
    weight, bias = layer.weight.to(dtype), layer.bias.to(dtype)
    torch.testing.assert_close(
        linear_gelu(x.to(dtype), weight, bias).double(), expected, rtol=tolerance, atol=tolerance
    )
    torch.testing.assert_close(layer.to(dtype)(x.to(dtype)).double(), product, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("capability", "calls"), [("AVX2", 0), ("AVX512", 2)])
@torch.no_grad()
def test_onednn_multiplies_float32_where_it_is_the_quicker(monkeypatch, capability, calls):
    kernel, seen = torch.ops.mkldnn._linear_pointwise, []
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *given: seen.append(given[3]) or kernel(*given))
    Mlp(8, 16)(torch.zeros(1, 2, 8))
    assert seen == ["gelu", "none"][:calls]


@pytest.mark.parametrize(("capability", "kernels"), [("AVX2", []), ("AVX512", ["gelu", "none"])])
@torch.no_grad()
def test_a_compiled_graph_is_whole_and_calls_the_quicker_kernel(monkeypatch, capability, kernels):
    """The compiler stays out: what it is given is looked at, and run as it is."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    mlp, x = Mlp(8, 16), torch.randn(1, 2, 8, generator=torch.Generator().manual_seed(0))
    called = []

    def look(graph, inputs):
        called.extend(node.args[3] for node in graph.graph.nodes if "onednn_linear" in str(node.target))
        return graph

    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(mlp, backend=look, fullgraph=True)(x), mlp(x), rtol=2e-6, atol=2e-6)
    torch._dynamo.reset()
    assert called == kernels


@torch.no_grad()
def test_a_gelu_longer_than_the_caches_is_whole(monkeypatch):
    monkeypatch.setattr("medcli.model.linear.CACHED_ELEMENTS", 16)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    layer, x = Linear(8, 24), torch.randn(3, 7, 8, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.gelu(layer(x), approximate="tanh")
    torch.testing.assert_close(linear_gelu(x, layer.weight, layer.bias), expected, rtol=2e-6, atol=2e-6)


def test_training_at_any_width_of_queries_is_untouched_by_absorption():
    compressed = dataclasses.replace(CONFIG, mediators=(), mediator_layers=(), qk_ratio=0.5)
    network = DiffusionTransformer(compressed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.2)
    assert_same_function(network, 0)


@pytest.mark.parametrize("has_shift", [True, False])
def test_a_modulated_norm_is_layer_norm_times_one_plus_scale_plus_shift(has_shift: bool) -> None:
    x_BND, scale_BD, shift_BD = torch.randn(2, 3, 4), torch.randn(2, 4), torch.randn(2, 4)
    normed_BND = (x_BND - x_BND.mean(-1, keepdim=True)) / (x_BND.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()
    expected_BND = normed_BND * (1 + scale_BD[:, None]) + (shift_BD[:, None] if has_shift else 0)
    torch.testing.assert_close(modulated_norm(x_BND, shift_BD if has_shift else None, scale_BD), expected_BND)
