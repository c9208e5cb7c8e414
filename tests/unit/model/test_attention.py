"""What is kept between calls: it follows the weights, is never saved, and training does not see it."""

import pytest
import torch

from medcli.model import attention
from medcli.model.attention import RelativeBias, WeightCache

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


def test_weights_made_for_inference_are_not_followed_so_nothing_is_kept():
    with torch.inference_mode():
        weight = torch.ones(2)
        kept = WeightCache[torch.Tensor]()
        assert kept.of(torch.clone, weight).tolist() == [1, 1]
        weight.add_(1)
        assert kept.of(torch.clone, weight).tolist() == [2, 2]


@torch.no_grad()
def test_a_compiled_graph_leaves_it_alone(monkeypatch: pytest.MonkeyPatch):
    bias = bias_of()
    kept = bias()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert bias() is not kept
