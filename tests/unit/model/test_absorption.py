import dataclasses

import pytest
import torch

from medcli.config import ModelConfig
from medcli.cost.macs import macs_by_operator
from medcli.model.absorption import absorbed_saving
from medcli.model.mediator import MediatorAttention
from medcli.presets import preset_config


def all_blocks(preset: str, count: int) -> ModelConfig:
    config = preset_config(preset)
    return dataclasses.replace(config, mediators=(count,), mediator_layers=tuple(range(config.depth)))


@pytest.mark.parametrize(("resolution", "counted", "done"), [(256, 115.0, 101.7), (1024, 1836.5, 1597.3)])
def test_products_really_done_are_those_of_the_design(resolution, counted, done):
    config = all_blocks("SiT-XL/2", 16).at_resolution(resolution)
    by_operator = macs_by_operator(config)
    products = by_operator["linear"] + by_operator["matmul"] + by_operator["conv"]
    assert products / 1e9 == pytest.approx(counted, abs=0.05)
    assert (products - absorbed_saving(config)) / 1e9 == pytest.approx(done, abs=0.05)


def test_full_attention_and_dear_absorption_save_nothing():
    assert absorbed_saving(all_blocks("SiT-S/2", 64), num_mediators=0) == 0
    assert absorbed_saving(all_blocks("SiT-S/2", 64)) == 0  # as many mediators as a head is wide, few tokens
    assert absorbed_saving(all_blocks("SiT-S/2", 64).at_resolution(1024)) > 0


def test_only_blocks_with_mediators_save():
    config = all_blocks("SiT-S/2", 4)
    half = dataclasses.replace(config, mediator_layers=config.mediator_layers[:6])
    assert 2 * absorbed_saving(half) == absorbed_saving(config) > 0


def filled_attention(count: int, dtype: torch.dtype) -> MediatorAttention:
    attention = MediatorAttention(96, 3, 8, (count,))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return attention.to(dtype)


@pytest.mark.parametrize("count", [1, 4, 9, 16])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 2e-2)]
)
@pytest.mark.parametrize("batch", [1, 3])
def test_absorbed_attention_is_the_same_function(count, dtype, tolerance, batch):
    attention = filled_attention(count, torch.float64)
    x = torch.randn(batch, 64, 96, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = attention(x, count).detach()  # with gradients, nothing is absorbed
    with torch.no_grad():
        assert attention.absorbs(count)
        actual = attention.to(dtype)(x.to(dtype), count).double()
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()
