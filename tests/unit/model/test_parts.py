"""Parts of LightningDiT and REPA: norms, SwiGLU, rotary positions, and mediators under them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from medcli.config import ModelConfig
from medcli.cost.traced_macs import trace_costs
from medcli.model.absorption import absorbed_saving
from medcli.model.backbone import fresh_model, random_model
from medcli.model.grid_tables import pool_centres, rotation_tables
from medcli.model.mediator import MediatorAttention
from medcli.model.parts import RmsNorm, Rotary, SwiGlu

PLAIN = ModelConfig(
    family="sit", hidden_size=32, depth=2, num_heads=2, patch_size=1, latent_size=6, in_channels=4, num_classes=10,
    learn_sigma=False, mediators=(4, 9), mediator_layers=(0,),
)  # fmt: skip
LIGHTNING: dict[str, Any] = {"norm": "rms", "mlp": "swiglu", "rope": True, "mlp_ratio": 85 / 32}
KINDS: list[dict[str, Any]] = [
    LIGHTNING,
    {**LIGHTNING, "qk_norm": True, "has_shift": False},
    {"qk_norm": True},
    {"rope": True},
]


def attention_of(**parts: Any) -> MediatorAttention:
    attention = random_model(replace(PLAIN, **parts)).double().ordered_blocks()[0].attn
    assert isinstance(attention, MediatorAttention)
    return attention


def test_rms_norm_divides_by_the_root_mean_square_in_float32_and_multiplies_in_the_weights_type() -> None:
    norm = RmsNorm(8).to(torch.bfloat16)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 8).to(torch.bfloat16)
    wide = x.float()
    expected = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(torch.bfloat16) * norm.weight
    assert torch.equal(norm(x), expected)


def test_the_first_half_of_swiglu_goes_through_silu() -> None:
    mlp = SwiGlu(4, 3)
    x = torch.randn(2, 5, 4)
    hidden = F.linear(x, mlp.w12.weight, mlp.w12.bias)
    torch.testing.assert_close(mlp(x), mlp.w3(F.silu(hidden[..., :3]) * hidden[..., 3:]))


def test_tables_turn_the_first_half_with_the_row_and_the_second_with_the_column() -> None:
    cos_NK, sin_NK = rotation_tables(3, 8)
    row, column = 2, 1
    frequency = torch.tensor([1, 1, 10000 ** (-2 / 4), 10000 ** (-2 / 4)], dtype=torch.float64)
    angles = torch.cat([row * frequency, column * frequency])
    torch.testing.assert_close(torch.from_numpy(cos_NK[row * 3 + column]), angles.cos().float())
    torch.testing.assert_close(torch.from_numpy(sin_NK[row * 3 + column]), angles.sin().float())


def test_a_score_depends_on_the_offset_alone() -> None:
    rotary = Rotary(6, 16)
    query, key = torch.randn(2, 16, dtype=torch.float64)
    placed_q, placed_k = (rotary.tokens(one.expand(1, 1, 36, 16)).view(6, 6, 16) for one in (query, key))
    offset = [placed_q[row, column] @ placed_k[row + 2, column + 1] for row in range(4) for column in range(5)]
    torch.testing.assert_close(torch.stack(offset), offset[0].expand(20), rtol=1e-5, atol=1e-6)
    assert abs(placed_q[0, 0] @ placed_k[1, 2] - offset[0]) > 1e-3


def test_pools_have_the_places_of_their_tokens_on_average() -> None:
    """Adaptive pooling of the positions themselves."""
    for side in (4, 6, 7):
        for cells in (1, 2, 3, 4):
            positions = torch.arange(side, dtype=torch.float64)[None, None]
            pooled = F.adaptive_avg_pool1d(positions, cells)[0, 0]
            torch.testing.assert_close(torch.from_numpy(pool_centres(side, cells)), pooled)


def test_a_mediators_score_depends_on_the_offset_from_its_pools_centre_alone() -> None:
    """Mediators 0 and 1 of a row are three columns apart; so are the tokens they are scored against."""
    attention = attention_of(rope=True)
    query = torch.randn(32, dtype=torch.float64).expand(1, 36, 32)  # all tokens alike: so are all mediators
    key = torch.randn(32, dtype=torch.float64).expand(1, 36, 32)
    bias = attention.biases(4)[0]
    scores = (attention.scores(query, key, 4)[0] - bias).view(2, 2, 2, 6, 6)  # head, mediator, token
    torch.testing.assert_close(scores[:, 0, 0, :, :3], scores[:, 0, 1, :, 3:], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scores[:, 0, 0, :3], scores[:, 1, 0, 3:], rtol=1e-5, atol=1e-6)
    assert (scores[:, 0, 0] - scores[:, 0, 1]).abs().max() > 1e-3


def test_a_mediators_score_is_the_average_of_its_normalised_queries_scores() -> None:
    attention = attention_of(qk_norm=True)
    assert attention.q_norm is not None
    x = torch.randn(1, 36, 32, dtype=torch.float64)
    query, key, _ = attention.project(x)
    heads = attention.split_heads(query)
    torch.testing.assert_close(heads, attention.q_norm(attention.split_heads(attention.qkv(x)[..., :32])))
    full = heads * attention.head_width**-0.5 @ attention.split_heads(key).mT
    pooled = full.view(1, 2, 2, 3, 2, 3, 36).mean(dim=(3, 5)).flatten(2, 3)
    torch.testing.assert_close(attention.scores(query, key, 4)[0] - attention.biases(4)[0], pooled)


@pytest.mark.parametrize("parts", KINDS)
def test_absorption_is_off_where_it_would_be_inexact(parts: dict[str, Any]) -> None:
    config = replace(PLAIN, latent_size=16, mediators=(1,), **parts)
    assert absorbed_saving(config) == 0 < absorbed_saving(replace(config, rope=False, qk_norm=False))
    model = random_model(config)
    inputs: tuple[Tensor, ...] = torch.randn(1, 4, 16, 16), torch.rand(1), torch.tensor([3])
    with torch.no_grad():
        quick = model(*inputs)
    torch.testing.assert_close(quick, model(*inputs))
    mediated = [block.attn for block in model.ordered_blocks() if isinstance(block.attn, MediatorAttention)]
    assert [attention.absorbs(1) for attention in mediated] == [False]


@pytest.mark.parametrize("parts", KINDS)
def test_the_trace_and_the_closed_form_count_the_parts_alike(parts: dict[str, Any]) -> None:
    config = replace(PLAIN, **parts)
    traced = trace_costs(config, (0, 4, 9))
    assert len({traced.macs(config, count) for count in (0, 4, 9)}) == 3


def test_a_fresh_networks_norms_start_at_one() -> None:
    model = fresh_model(replace(PLAIN, **LIGHTNING, qk_norm=True))
    norms = [value for name, value in model.named_parameters() if "norm" in name]
    assert len(norms) == 2 * 4 + 1
    assert all(bool((value == 1).all()) for value in norms)
