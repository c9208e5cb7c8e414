"""What is kept between calls: it follows the weights, is never saved, and training does not see it."""

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from medcli.model import attention
from medcli.model.attention import RelativeBias, WeightCache
from medcli.model.layout import BIAS_TABLES
from medcli.model.mediator import MediatorAttention, compose_biases

SIDE, HEADS = 3, 2


def bias_of(seed: int = 0) -> RelativeBias:
    bias = RelativeBias(((2 * SIDE - 1) ** 2, HEADS), SIDE)
    with torch.no_grad():
        bias.relative_position_bias_table.normal_(generator=torch.Generator().manual_seed(seed))
    return bias


def expected(bias: RelativeBias) -> torch.Tensor:
    """Entry by entry, from the definition."""
    table, width = bias.relative_position_bias_table, 2 * SIDE - 1
    cells = [divmod(token, SIDE) for token in range(SIDE**2)]
    rows = [[(a - c + SIDE - 1) * width + b - d + SIDE - 1 for c, d in cells] for a, b in cells]
    return table[torch.tensor(rows)].permute(2, 0, 1)


@torch.no_grad()
def test_a_kept_bias_is_reused_until_its_table_changes():
    bias = bias_of()
    first = bias()
    assert torch.equal(first, expected(bias))
    assert bias() is first
    bias.relative_position_bias_table.mul_(2)
    assert torch.equal(bias(), expected(bias))
    assert not torch.equal(bias(), first)
    bias.load_state_dict(bias_of(1).state_dict())
    assert torch.equal(bias(), expected(bias_of(1)))
    bias.load_state_dict(bias_of(2).state_dict(), assign=True)
    assert torch.equal(bias(), expected(bias_of(2)))
    assert bias.double()().dtype == torch.float64
    assert list(bias.state_dict()) == ["relative_position_bias_table"]


def test_training_composes_it_anew_with_a_gradient():
    bias = bias_of()
    with torch.no_grad():
        kept = bias()
    made = bias()
    assert made is not kept
    made.square().sum().backward()
    table = bias.relative_position_bias_table
    assert table.grad is not None
    uses = torch.tensor([SIDE - abs(offset) for offset in range(1 - SIDE, SIDE)])
    torch.testing.assert_close(table.grad, 2 * table.detach() * torch.outer(uses, uses).flatten()[:, None])


@torch.no_grad()
def test_a_large_bias_is_not_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attention, "KEPT_BYTES", 4 * HEADS * SIDE**4 - 1)
    bias = bias_of()
    assert bias() is not bias()
    assert torch.equal(bias(), expected(bias))
    monkeypatch.setattr(attention, "KEPT_BYTES", 4 * HEADS * SIDE**4)
    assert bias() is bias()


def test_weights_made_for_inference_are_followed_too():
    with torch.inference_mode():
        weight = torch.ones(2)
        kept = WeightCache[torch.Tensor]()
        assert kept.of(torch.clone, weight).tolist() == [1, 1]
        weight.add_(1)
        assert kept.of(torch.clone, weight).tolist() == [2, 2]


def swap_for_new(module: nn.Module, name: str, value: torch.Tensor) -> None:
    """As FSDP exchanges a flat parameter's views for whole ones and back."""
    del module._parameters[name]
    setattr(module, name, value)


WRITES: dict[str, Callable[[nn.Module, str, torch.Tensor], object]] = {
    "in place": lambda module, name, value: module.get_parameter(name).copy_(value),
    "data.copy_": lambda module, name, value: module.get_parameter(name).data.copy_(value),
    "data =": lambda module, name, value: setattr(module.get_parameter(name), "data", value),
    "foreach": lambda module, name, value: torch._foreach_copy_([module.get_parameter(name).data], [value]),
    "shared memory": lambda module, name, value: np.copyto(module.get_parameter(name).detach().numpy(), value.numpy()),
    "one element": lambda module, name, value: module.get_parameter(name).data.view(-1)[-1:].copy_(value.view(-1)[-1:]),
    "load_state_dict": lambda module, name, value: module.load_state_dict({name: value}, strict=False),
    "assign": lambda module, name, value: module.load_state_dict({name: value}, strict=False, assign=True),
    "new parameter": lambda module, name, value: setattr(module, name, nn.Parameter(value)),
    "plain tensor": swap_for_new,
    "swap_tensors": lambda module, name, value: torch.utils.swap_tensors(
        module.get_parameter(name), nn.Parameter(value)
    ),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("table", BIAS_TABLES)
@torch.no_grad()
def test_mediator_biases_follow_every_way_of_writing(write: Callable[..., object], table: str):
    generator = torch.Generator().manual_seed(0)
    layer = MediatorAttention(4, 2, 3, (4,))
    for name in BIAS_TABLES:
        layer.get_parameter(name).normal_(generator=generator)
    before = [bias.clone() for bias in layer.biases(4)]
    write(layer, table, torch.randn(layer.get_parameter(table).shape, generator=generator))
    after = layer.biases(4)
    wanted = compose_biases(*(getattr(layer, name) for name in BIAS_TABLES))
    assert all(map(torch.equal, after, wanted))
    assert not all(map(torch.equal, after, before))
    assert layer.biases(4) is after


@torch.no_grad()
def test_a_copy_follows_its_own_weights():
    layer = bias_of()
    first = layer()
    copy = deepcopy(layer)
    copy.relative_position_bias_table.data.mul_(2)
    assert torch.equal(copy(), 2 * first)
    assert layer() is first
    layer.relative_position_bias_table.data.mul_(3)
    assert torch.equal(layer(), 3 * first)


@torch.no_grad()
def test_nothing_is_kept_where_comparing_would_wait_for_a_device():
    calls = []
    cache = WeightCache[torch.Tensor]()
    for _ in range(2):
        cache.of(lambda weight: (calls.append(1), weight)[1], torch.empty(2, device="meta"))
    assert len(calls) == 2


@torch.no_grad()
def test_a_compiled_graph_leaves_it_alone(monkeypatch: pytest.MonkeyPatch):
    bias = bias_of()
    kept = bias()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert bias() is not kept


def test_plain_products_in_bfloat16_training_are_fused_attention():
    layer = attention.Attention(16, 2).bfloat16()
    torch.manual_seed(0)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 9, 16).bfloat16()
    exact = deepcopy(layer).float()
    for module, given in ((layer, x), (exact, x.float())):
        module(given, 0).float().square().sum().backward()
    torch.testing.assert_close(layer(x, 0).float(), exact(x.float(), 0), rtol=0.05, atol=0.05)
    ours, theirs = layer.qkv.weight.grad.float(), exact.qkv.weight.grad
    assert (ours - theirs).norm() < 0.03 * theirs.norm()
