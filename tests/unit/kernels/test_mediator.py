"""The kernel pair in Triton's interpreter against the module in float64."""

import pytest
import torch

from tests.unit.kernels import interpreter  # noqa: F401

from medcli.model.mediator import MediatorAttention  # isort: skip

SHAPES = [(2, 16, 8, 4, 2), (1, 72, 10, 9, 2), (3, 24, 4, 1, 1)]
"""Heads, head width, side, mediators, images."""


def module_of(heads, head_width, side, count):
    torch.manual_seed(0)
    module = MediatorAttention(heads * head_width, heads, side, (count,)).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.requires_grad_(False)


def error(found_BND, expected_BND):
    return ((found_BND.double() - expected_BND).abs().max() / expected_BND.abs().max()).item()


@pytest.mark.parametrize("is_absorbed", [False, True], ids=["projected", "absorbed"])
@pytest.mark.parametrize(("heads", "head_width", "side", "count", "batch"), SHAPES)
@torch.no_grad()
def test_the_kernels_mix_as_the_module_does(heads, head_width, side, count, batch, is_absorbed):
    module = module_of(heads, head_width, side, count)
    x_BND = torch.randn(batch, side**2, heads * head_width, dtype=torch.float64)
    expected_BND = module.mix(x_BND, count, is_absorbed)
    found_BND = module.float().mix_in_kernels(x_BND.float(), count, is_absorbed)
    assert error(found_BND, expected_BND) < 2e-6
