"""The 2015 Inception network of the published scores, through torch-fidelity's port of it (metrics-facts 1.2, 2.4).

Only the network's class is used: weights are read here (never unpickled into code, never downloaded unasked), and every
number is computed by this package.
Dimension key: B batch, Y X image height and width, C channels, D features.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from medcli.errors import DataError, EnvironmentProblem
from medcli.runtime.torchvision_guard import import_torchvision
from medcli.scores.extractor import CPU, INCEPTION, LOGITS, POOL, SPATIAL
from medcli.scores.inception_network import NUM_SPATIAL_CHANNELS, InceptionNetwork, as_seen
from medcli.scores.inception_weights import EXPECTED, read_weights

CPU_ROWS = 4
"""Images in one network call on a CPU: the widest maps then fit its caches; more take up to a third longer each."""


class InceptionExtractor:
    """TF-compatible Inception v3 as a `FeatureExtractor`.

    Args:
        network: The network, on its device.
        class_weight_KD: (1008, 2048) float32 of the last layer.
        weights_sha256: Hash of the weights file.
    """

    name = INCEPTION
    dims: Mapping[str, int] = MappingProxyType({POOL: 2048, LOGITS: 1008, SPATIAL: 17 * 17 * NUM_SPATIAL_CHANNELS})
    preprocessing = "299x299 bilinear as TensorFlow 1, (x - 128) / 128"

    def __init__(self, network: InceptionNetwork, class_weight_KD: torch.Tensor, weights_sha256: str) -> None:
        self._network = network
        self._class_weight_KD = class_weight_KD
        self._device = next(network.parameters()).device
        self.weights_sha256 = weights_sha256
        self.rows_per_call = CPU_ROWS if self._device.type == "cpu" else None

    @torch.inference_mode()
    def prepare(self, images_BYXC: torch.Tensor) -> torch.Tensor:
        """(B, 299, 299, 3) float32: resized the way TensorFlow 1 did, scaled."""
        return as_seen(images_BYXC.to(self._device))

    @torch.inference_mode()
    def run(self, prepared: torch.Tensor) -> dict[str, torch.Tensor]:
        """`pool` (B, 2048) and `spatial` (B, 2023), float32, of images made ready."""
        # TF32, on by default in CUDA convolutions, moves the third digit of a score (metrics-facts 3).
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            found = [self._network(part) for part in prepared.split(self.rows_per_call or len(prepared))]
        pool, spatial = (torch.cat(parts) for parts in zip(*found, strict=True))
        return {POOL: pool, SPATIAL: spatial}

    @torch.inference_mode()
    def logits(self, pool_BD: torch.Tensor) -> torch.Tensor:
        """(B, 1008) float32 class scores without bias, on the CPU."""
        return pool_BD.cpu() @ self._class_weight_KD.T

    def features(self, images_BYXC: torch.Tensor) -> dict[str, torch.Tensor]:
        """`pool` (B, 2048), `logits` (B, 1008, no bias) and `spatial` (B, 2023) of uint8 RGB images, float32.

        Images of any size are resized to 299 x 299 inside, the way TensorFlow 1 did.
        """
        found = self.run(self.prepare(images_BYXC))
        return {**found, LOGITS: self.logits(found[POOL])}


def load_inception(weights_path: Path | None = None, *, device: torch.device = CPU) -> InceptionExtractor:
    """Build the network from a weights file on this machine.

    Args:
        weights_path: torch-fidelity's or pytorch-fid's `.pth`, or the same tensors as safetensors; None looks where
            torch.hub would have put it.
        device: Where the network runs.

    Raises:
        EnvironmentProblem: If there is no such file, or torch-fidelity does not import.
        DataError: If the file is damaged, needs pickled objects, or holds another network.
    """
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
