from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from medcli.runtime.torchvision_guard import import_torchvision
from medcli.scores.inception_network import (
    SIDE,
    FusedConvolution,
    PackedConvolution,
    as_seen,
    packs_convolutions,
    resize_like_tensorflow_1,
)

KINDS = (FusedConvolution, *((PackedConvolution,) if packs_convolutions() else ()))


def layer(kernel: tuple[int, int], stride: int, padding: tuple[int, int]) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    torch.manual_seed(3)
    conv, norm = nn.Conv2d(24, 40, kernel, stride, padding, bias=False), nn.BatchNorm2d(40, eps=0.001)
    nn.init.uniform_(norm.weight, 0.8, 1.2)
    nn.init.uniform_(norm.bias, -0.2, 0.2)
    norm.running_mean = torch.rand(40) - 0.5
    norm.running_var = torch.rand(40) + 0.5
    return conv, norm.eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((3, 3), 2, (0, 0)), ((1, 7), 1, (0, 3)), ((5, 5), 1, (2, 2)), ((1, 1), 1, (0, 0))],
)
def test_a_fused_layer_is_its_three_parts(
    kind: type[FusedConvolution], kernel: tuple[int, int], stride: int, padding: tuple[int, int]
) -> None:
    conv, norm = layer(kernel, stride, padding)
    map_BCYX = torch.randn(4, 24, 17, 17).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        fused = kind(conv, norm)
        found, again = fused(map_BCYX), fused(map_BCYX)
        wanted = functional.relu(norm.double()(conv.double()(map_BCYX.double())))
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-6
    assert torch.equal(found, again)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (48, 64), (256, 256), (299, 299), (400, 301)])
def test_the_resize_is_torch_fidelitys_bit_for_bit(size: tuple[int, int]) -> None:
    import_torchvision()
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    images_BYXC = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    wanted = interpolate_bilinear_2d_like_tensorflow1x(
        images_BYXC.permute(0, 3, 1, 2).float(), size=(SIDE, SIDE), align_corners=False
    )
    assert torch.equal(resize_like_tensorflow_1(images_BYXC, SIDE).permute(0, 3, 1, 2), wanted)
    assert torch.equal(as_seen(images_BYXC).permute(0, 3, 1, 2), (wanted - 128) / 128)


def test_an_image_is_seen_the_same_in_any_company() -> None:
    images_BYXC = torch.randint(0, 256, (3, 20, 30, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    together = as_seen(images_BYXC)
    for place in range(3):
        assert torch.equal(as_seen(images_BYXC[place : place + 1])[0], together[place])
