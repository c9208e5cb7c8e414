"""The Inception network made quick: batch norm folded into the convolutions, channels last, nothing computed twice.

torch-fidelity's modules give the weights and the wiring of each block; their order, the resize and the arithmetic of a
layer are here. Features differ from torch-fidelity's own by the rounding of float32, about 3e-7 of their norm.
Dimension key: B batch, Y X height and width, C channels, D features.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

SIDE = 299
"""Pixels along a side of what the network sees."""
NUM_SPATIAL_CHANNELS = 7
"""ADM keeps the first seven channels of `mixed_6/conv`, 17 x 17 each."""
SPATIAL_LAYER = "Mixed_6d.branch1x1"
"""torch-fidelity's name of `mixed_6/conv` (metrics-facts 1.2)."""
STAGES = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    *("Mixed_7a", "Mixed_7b", "Mixed_7c"),
)
"""torch-fidelity's names of the layers between the resized image and the pooling, in order."""


class InceptionNetwork(nn.Module):
    """torch-fidelity's Inception up to its pool features.

    Args:
        original: `FeatureExtractorInceptionV3`, loaded. Its convolutions are replaced.
        device: Where it will run.
    """

    def __init__(self, original: nn.Module, device: torch.device) -> None:
        super().__init__()
        fuse_convolutions(original, is_packed=device.type == "cpu" and packs_convolutions())
        self.stages = nn.ModuleDict({name: original.get_submodule(name) for name in STAGES})
        self.to(device).requires_grad_(False).eval()

    def forward(self, prepared_BYXC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pool features (B, 2048) and spatial features (B, 2023) of images made ready by `as_seen`."""
        spatial = []

        def keep_first_channels(_module: nn.Module, _inputs: object, output_BCYX: torch.Tensor) -> None:
            spatial.append(flatten_spatial(output_BCYX))

        handle = self.stages.get_submodule(SPATIAL_LAYER).register_forward_hook(keep_first_channels)
        try:
            map_BCYX = prepared_BYXC.permute(0, 3, 1, 2)
            for stage in self.stages.values():
                map_BCYX = stage(map_BCYX)
        finally:
            handle.remove()
        return map_BCYX.mean(dim=(2, 3)), spatial[0]


def as_seen(images_BYXC: torch.Tensor) -> torch.Tensor:
    """(B, 299, 299, 3) float32 in [-1, 1) of uint8 images, resized and scaled as in the TensorFlow graph."""
    return resize_like_tensorflow_1(images_BYXC, SIDE).sub_(128).div_(128)


def resize_like_tensorflow_1(images_BYXC: torch.Tensor, side: int) -> torch.Tensor:
    """Bilinear resize without half-pixel centres, corners not aligned and no antialias (metrics-facts 1.2).

    Each output pixel i lies at i * (size / side), a float32 product, between its two neighbours; columns are blended
    first. On a CPU the result is TensorFlow's, bit for bit.

    Args:
        images_BYXC: (B, Y, X, C) of any type.
        side: Height and width wanted.

    Returns:
        (B, side, side, C) float32.
    """
    # The image is turned so that what is picked lies together in memory: columns first, then rows.
    columns_XBYC = images_BYXC.permute(2, 0, 1, 3).contiguous()
    rows_YBXC = _blend(columns_XBYC, side).permute(2, 1, 0, 3).contiguous()
    return _blend(rows_YBXC, side).transpose(0, 1).contiguous()


def _blend(lines: torch.Tensor, side: int) -> torch.Tensor:
    """(side, ...) float32 between neighbouring lines of (lines, ...)."""
    last = len(lines) - 1
    scale = torch.tensor(len(lines) / side, dtype=torch.float32, device=lines.device)
    place = torch.arange(side, dtype=torch.float32, device=lines.device) * scale
    low = place.long()
    share = (place - low).view(-1, *[1] * (lines.dim() - 1))
    from_low = lines.index_select(0, low).to(torch.float32)
    step = lines.index_select(0, (low + 1).clamp_max(last)).to(torch.float32).sub_(from_low)
    return step.mul_(share).add_(from_low)


def flatten_spatial(map_BCYX: torch.Tensor) -> torch.Tensor:
    """ADM's spatial features of a feature map after its ReLU: (B, Y * X * 7), columns over row, column, channel.

    TensorFlow keeps channels last; flattening channels first gives the same numbers in another order, and against ADM's
    statistics an sFID fifty times too high (metrics-facts 1.2).
    """
    return map_BCYX[:, :NUM_SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)


class FusedConvolution(nn.Module):
    """A convolution with the batch norm behind it folded in, and its ReLU.

    Args:
        conv: The convolution, without bias.
        norm: Its batch norm. Weights are folded in float64.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        mean_C, variance_C = norm.get_buffer("running_mean").double(), norm.get_buffer("running_var").double()
        scale_C = norm.weight.double() / (variance_C + norm.eps).sqrt()
        weight = (conv.weight.double() * scale_C.view(-1, 1, 1, 1)).float()
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter((norm.bias.double() - mean_C * scale_C).float())
        self.stride, self.padding = [int(s) for s in conv.stride], [int(p) for p in conv.padding]

    def forward(self, map_BCYX: torch.Tensor) -> torch.Tensor:
        """(B, C, Y, X), channels last, of (B, C', Y', X')."""
        return functional.conv2d(map_BCYX, self.weight, self.bias, self.stride, self.padding).relu_()


class PackedConvolution(FusedConvolution):
    """The same through oneDNN's fused operator: ReLU inside, weights rearranged once, for the shape met first.

    Its results do not depend on the number of threads, and it is a tenth quicker than the plain calls.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__(conv, norm)
        self._packed: torch.Tensor | None = None

    def forward(self, map_BCYX: torch.Tensor) -> torch.Tensor:
        """(B, C, Y, X), channels last, of (B, C', Y', X')."""
        how = (self.padding, self.stride, [1, 1], 1)
        if self._packed is None:
            shape, weight = list(map_BCYX.shape), self.weight.contiguous()
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *how, shape)
            self.register_parameter("weight", None)  # 95 MB that nothing reads again
        return torch.ops.mkldnn._convolution_pointwise(map_BCYX, self._packed, self.bias, *how, "relu", [], "")


def fuse_convolutions(network: nn.Module, *, is_packed: bool) -> None:
    """Replace every convolution followed by a batch norm and a ReLU (torch-fidelity's `BasicConv2d`), in place."""
    for name, child in network.named_children():
        conv, norm = getattr(child, "conv", None), getattr(child, "bn", None)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(network, name, (PackedConvolution if is_packed else FusedConvolution)(conv, norm))
        else:
            fuse_convolutions(child, is_packed=is_packed)


def packs_convolutions() -> bool:
    """Whether oneDNN's fused operator, which is no public part of torch, is there and computes what it should."""
    conv, norm = nn.utils.skip_init(nn.Conv2d, 8, 8, 3, bias=False), nn.BatchNorm2d(8)
    conv.weight = nn.Parameter(torch.linspace(-1, 1, 576).view(8, 8, 3, 3))
    map_BCYX = torch.linspace(-1, 1, 2 * 8 * 49).sin().view(2, 8, 7, 7).to(memory_format=torch.channels_last)
    try:
        with torch.inference_mode():
            found, wanted = (kind(conv, norm)(map_BCYX) for kind in (PackedConvolution, FusedConvolution))
    except (AttributeError, RuntimeError, TypeError):
        return False
    return bool(torch.allclose(found, wanted, rtol=1e-4, atol=1e-5))
