"""The 2015 Inception network of the published scores, through torch-fidelity's port of it (metrics-facts 1.2, 2.4).

torch-fidelity's modules give the weights and the wiring of each block; their order, the resize and the arithmetic of a
layer are here: batch norm is folded into the convolutions, channels are last, nothing is computed twice. Features
differ from torch-fidelity's own by the rounding of float32, about 3e-7 of their norm. Weights are read by
`inception_weights` (never unpickled into code, never downloaded unasked).
Dimension key: B batch, Y X image height and width, C channels, D features.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from medcli.errors import DataError, EnvironmentProblem
from medcli.runtime.extras import require_extra
from medcli.runtime.precision import float32_products
from medcli.runtime.torchvision_guard import import_torchvision
from medcli.scores.extractor import CPU, INCEPTION, LOGITS, POOL, SPATIAL, FeatureExtractor
from medcli.scores.inception_weights import EXPECTED, read_weights

CPU_ROWS = 4
"""Images in one network call on a CPU: the widest maps then fit its caches; more take up to a third longer each."""
SIDE = 299
"""Side of the network's input, in pixels."""
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


DIMS = {POOL: 2048, LOGITS: 1008, SPATIAL: 17 * 17 * NUM_SPATIAL_CHANNELS}
"""Width of each kind of feature."""


class InceptionExtractor(FeatureExtractor):
    """TF-compatible Inception v3.

    Args:
        network: The network, on its device.
        class_weight_KD: (1008, 2048) float32 of the last layer.
        weights_sha256: Hash of the weights file.
    """

    preprocessing = "299x299 bilinear as TensorFlow 1, (x - 128) / 128"

    def __init__(self, network: InceptionNetwork, class_weight_KD: torch.Tensor, weights_sha256: str) -> None:
        self._network = network
        self._class_weight_KD = class_weight_KD
        super().__init__(INCEPTION, DIMS, weights_sha256, next(network.parameters()).device)
        self.rows_per_call = CPU_ROWS if self._device.type == "cpu" else None

    @torch.inference_mode()
    def prepare(self, images_BYXC: torch.Tensor) -> torch.Tensor:
        """(B, 299, 299, 3) float32: resized as TensorFlow 1 does and scaled."""
        return preprocess(images_BYXC.to(self._device))

    @torch.inference_mode()
    def run(self, prepared: torch.Tensor) -> dict[str, torch.Tensor]:
        """`pool` (B, 2048) and `spatial` (B, 2023), float32, of preprocessed images."""
        # TF32, on by default in CUDA convolutions, moves the third digit of a score (metrics-facts 3).
        with float32_products("highest"):
            found = [self._network(part) for part in prepared.split(self.rows_per_call or len(prepared))]
        pool, spatial = (torch.cat(parts) for parts in zip(*found, strict=True))
        return {POOL: pool, SPATIAL: spatial}

    @torch.inference_mode()
    def logits(self, pool_BD: torch.Tensor) -> torch.Tensor:
        """(B, 1008) float32 class scores without bias, on the CPU."""
        return pool_BD.cpu() @ self._class_weight_KD.T


def load_inception(weights_path: Path | None = None, *, device: torch.device = CPU) -> InceptionExtractor:
    """Build the network from a weights file on this machine.

    Args:
        weights_path: torch-fidelity's or pytorch-fid's `.pth`, or the same tensors as safetensors; None looks where
            torch.hub would have put it.

    Raises:
        EnvironmentProblem: If there is no such file, or torch-fidelity does not import.
        DataError: If the file is damaged, needs pickled objects, or holds another network.
    """
    require_extra("torch-fidelity")
    path, weights, sha256 = read_weights(weights_path)
    original = _original(path, weights)
    class_weight_KD = original.get_submodule("fc").get_parameter("weight").detach().clone()
    return InceptionExtractor(InceptionNetwork(original, device), class_weight_KD, sha256)


def _original(path: Path, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    network_class = _network_class()
    # The class loads weights in its constructor with full unpickling: hand it tensors already read, in memory.
    stream = io.BytesIO()
    torch.save(weights, stream)
    stream.seek(0)
    try:
        network: torch.nn.Module = network_class("medcli", ["2048"], feature_extractor_weights_path=stream)
    except RuntimeError as err:
        first = str(err).splitlines()[1:2] or [str(err)]
        raise DataError(f"{path} holds another network: {first[0].strip()[:160]}", hint=EXPECTED) from err
    return network


def _network_class() -> Any:
    try:
        import_torchvision()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as err:
        reason = str(err).splitlines()[0]
        raise EnvironmentProblem(
            f"torch-fidelity does not import: {reason}", hint="install the torchvision that goes with your torch"
        ) from err
    return FeatureExtractorInceptionV3


class InceptionNetwork(nn.Module):
    """torch-fidelity's Inception up to its pool features.

    Args:
        original: `FeatureExtractorInceptionV3`, loaded. Its convolutions are replaced.
    """

    def __init__(self, original: nn.Module, device: torch.device) -> None:
        super().__init__()
        fuse_convolutions(original, is_packed=device.type == "cpu" and packs_convolutions())
        self.stages = nn.ModuleDict({name: original.get_submodule(name) for name in STAGES})
        self.to(device).requires_grad_(False).eval()

    def forward(self, prepared_BYXC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pool features (B, 2048) and spatial features (B, 2023) of images preprocessed by `preprocess`."""
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


def preprocess(images_BYXC: torch.Tensor) -> torch.Tensor:
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
    # Transposed so that the lines to gather are contiguous in memory: columns first, then rows.
    columns_XBYC = images_BYXC.permute(2, 0, 1, 3).contiguous()
    rows_YBXC = _blend(columns_XBYC, side).permute(2, 1, 0, 3).contiguous()
    return _blend(rows_YBXC, side).transpose(0, 1).contiguous()


def _blend(lines: torch.Tensor, side: int) -> torch.Tensor:
    """Interpolate linearly between neighbouring lines: (lines, ...) to (side, ...) float32."""
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
    """Fused convolution by oneDNN's own operator: ReLU included, weights reordered once, for the first input's shape.

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
            self.register_parameter("weight", None)  # 95 MB that are not read again
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
    """Return whether oneDNN's fused operator, a private part of torch, exists and computes correctly."""
    conv, norm = nn.utils.skip_init(nn.Conv2d, 8, 8, 3, bias=False), nn.BatchNorm2d(8)
    conv.weight = nn.Parameter(torch.linspace(-1, 1, 576).view(8, 8, 3, 3))
    map_BCYX = torch.linspace(-1, 1, 2 * 8 * 49).sin().view(2, 8, 7, 7).to(memory_format=torch.channels_last)
    try:
        with torch.inference_mode():
            found, wanted = (kind(conv, norm)(map_BCYX) for kind in (PackedConvolution, FusedConvolution))
    except (AttributeError, RuntimeError, TypeError):
        return False
    return bool(torch.allclose(found, wanted, rtol=1e-4, atol=1e-5))
