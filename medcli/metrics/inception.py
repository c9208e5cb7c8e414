"""The 2015 Inception network of the published scores, through torch-fidelity's port of it (metrics-facts 1.2, 2.4).

Only the network class is used: weights are read here (never unpickled into code, never downloaded), and every number is
computed by this package.
Dimension key: B batch, Y X image height and width, C channels.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from medcli.errors import DataError, EnvironmentProblem
from medcli.metrics.extractor import CPU, INCEPTION, LOGITS, POOL, SPATIAL
from medcli.runtime.torchvision_guard import import_torchvision

WEIGHTS_NAME = "weights-inception-2015-12-05-6726825d.pth"
"""torch-fidelity's file of the TensorFlow weights; by torch.hub's convention its SHA-256 starts with 6726825d."""
WEIGHTS_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS_NAME}"
NUM_SPATIAL_CHANNELS = 7
"""ADM keeps the first seven channels of `mixed_6/conv`, 17 x 17 each."""
LAYERS = ["2048", "logits_unbiased"]
"""torch-fidelity's names of pool features and bias-free logits; a list, because its forward copies it as one."""


class InceptionExtractor:
    """TF-compatible Inception v3 as a `FeatureExtractor`."""

    name = INCEPTION
    dims: Mapping[str, int] = MappingProxyType({POOL: 2048, LOGITS: 1008, SPATIAL: 17 * 17 * NUM_SPATIAL_CHANNELS})

    def __init__(self, network: torch.nn.Module, weights_sha256: str) -> None:
        self._network = network
        self.weights_sha256 = weights_sha256

    @torch.inference_mode()
    def features(self, images_BYXC: torch.Tensor) -> dict[str, torch.Tensor]:
        """`pool` (B, 2048), `logits` (B, 1008, no bias) and `spatial` (B, 2023) of uint8 RGB images, float32.

        Images of any size are resized to 299 x 299 inside, the way TensorFlow 1 did.
        """
        spatial = []

        def keep_first_channels(_module: torch.nn.Module, _inputs: object, output_BCYX: torch.Tensor) -> None:
            spatial.append(flatten_spatial(output_BCYX))

        device = next(self._network.parameters()).device
        branch = self._network.get_submodule("Mixed_6d.branch1x1")
        handle = branch.register_forward_hook(keep_first_channels)
        try:
            pool, logits = self._network(images_BYXC.to(device).permute(0, 3, 1, 2))
        finally:
            handle.remove()
        return {POOL: pool, LOGITS: logits, SPATIAL: spatial[0]}


def flatten_spatial(map_BCYX: torch.Tensor) -> torch.Tensor:
    """ADM's spatial features of a feature map after its ReLU: (B, Y * X * 7), columns over row, column, channel.

    TensorFlow keeps channels last; flattening channels first gives the same numbers in another order, and against ADM's
    statistics an sFID fifty times too high (metrics-facts 1.2).
    """
    return map_BCYX[:, :NUM_SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)


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
    path = weights_path or Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_NAME
    if not path.is_file():
        raise EnvironmentProblem(
            f"no Inception weights at {path}; nothing is downloaded unasked",
            hint=f"fetch {WEIGHTS_URL} and pass it with --extractor-weights",
        )
    content = path.read_bytes()
    network = _network(path, _read_weights(path, content)).to(device)
    return InceptionExtractor(network, hashlib.sha256(content).hexdigest())


def _read_weights(path: Path, content: bytes) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load(content)
        weights = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as err:
        raise DataError(f"{path} can't be read as network weights", hint=_expected()) from err
    if not isinstance(weights, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in weights.values()):
        raise DataError(f"{path} does not hold a plain dictionary of tensors", hint=_expected())
    return weights


def _network(path: Path, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    network_class = _network_class()
    # The class loads weights in its constructor with full unpickling: hand it tensors already read, in memory.
    stream = io.BytesIO()
    torch.save(weights, stream)
    stream.seek(0)
    try:
        network: torch.nn.Module = network_class("medcli", LAYERS, feature_extractor_weights_path=stream)
    except RuntimeError as err:
        first = str(err).splitlines()[1:2] or [str(err)]
        raise DataError(f"{path} holds another network: {first[0].strip()[:160]}", hint=_expected()) from err
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


def _expected() -> str:
    return f"expected the 472 tensors of {WEIGHTS_NAME} from {WEIGHTS_URL.removesuffix(WEIGHTS_NAME)}"
