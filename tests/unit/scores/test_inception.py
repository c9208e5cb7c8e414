from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from medcli.errors import DataError, EnvironmentProblem
from medcli.runtime.torchvision_guard import import_torchvision
from medcli.scores.inception import (
    SIDE,
    FusedConvolution,
    PackedConvolution,
    flatten_spatial,
    load_inception,
    packs_convolutions,
    preprocess,
    resize_like_tensorflow_1,
)

KINDS = (FusedConvolution, *((PackedConvolution,) if packs_convolutions() else ()))


class Malicious:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_spatial_columns_run_over_row_column_and_the_first_seven_channels() -> None:
    channel, row, column = torch.meshgrid(torch.arange(9), torch.arange(3), torch.arange(4), indexing="ij")
    flat = flatten_spatial((100 * row + 10 * column + channel)[None])
    assert flat.shape == (1, 3 * 4 * 7)
    assert flat[0, (2 * 4 + 3) * 7 + 5] == 235


def test_missing_weights_name_the_file_and_the_option_and_fetch_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match="weights-inception-2015-12-05-6726825d.pth") as caught:
        load_inception()
    assert "--extractor-weights" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())


def test_a_pickle_given_as_weights_is_not_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "weights.pth", tmp_path / "mark"
    torch.save({"fc.weight": Malicious(mark)}, path)
    with pytest.raises(DataError, match="can't be read as network weights"):
        load_inception(path)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html></html>" * 20])
def test_damaged_weights_are_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = (tmp_path / "weights").with_suffix(suffix)
    path.write_bytes(content)
    with pytest.raises(DataError, match="can't be read as network weights"):
        load_inception(path)


def test_something_else_than_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model": {"fc.weight": torch.zeros(2)}}, path)
    with pytest.raises(DataError, match="plain dictionary of tensors"):
        load_inception(path)


def test_another_network_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"fc.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(DataError, match="another network") as caught:
        load_inception(path)
    assert len(caught.value.message) < 400
    assert "\n" not in caught.value.message


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
    assert torch.equal(preprocess(images_BYXC).permute(0, 3, 1, 2), (wanted - 128) / 128)


def test_an_image_is_seen_the_same_in_any_company() -> None:
    images_BYXC = torch.randint(0, 256, (3, 20, 30, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    together = preprocess(images_BYXC)
    for place in range(3):
        assert torch.equal(preprocess(images_BYXC[place : place + 1])[0], together[place])
