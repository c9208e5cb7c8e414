"""Small image classifiers as feature extractors: those of the bundles, and those that `fid --train-extractor` makes.

Dimension key: B batch, Y X image height and width, C channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn
from torch.nn import functional

from medcli.errors import DataError, EnvironmentProblem
from medcli.runtime.precision import float32_products
from medcli.scores.extractor import CPU, LOGITS, POOL, FeatureExtractor

SMALLEST_PX, MOST_HALVINGS = 8, 3
"""Inputs are 8, 16, 32 or 64 px a side: each halving before the last three convolutions doubles it."""
NUM_FEATURES = 64
LAST_SIDE = 4
"""Side of the last feature map."""


class SmallClassifier(nn.Module):
    """Convolutions and two linear layers: 120 thousand parameters at 8 px, 140 thousand at 32 px.

    Args:
        channels: 1 for grey images, 3 for colour.
        num_classes: Classes.
        halvings: Strided convolutions before the last three convolutions; the input has 8 x 2^halvings pixels a side.
    """

    def __init__(self, channels: int, num_classes: int, halvings: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = channels
        for _ in range(halvings):
            layers += [nn.Conv2d(width, 32, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.SiLU()]
            width = 32
        self.body = nn.Sequential(
            *layers,
            nn.Conv2d(width, 32, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.SiLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            # SiLU rather than ReLU: no feature is dead, so the Gaussians that FID compares have full rank.
            nn.Linear(64 * LAST_SIDE**2, NUM_FEATURES),
            nn.SiLU(),
        )
        self.head = nn.Linear(NUM_FEATURES, num_classes)
        self.channels, self.side_px = channels, SMALLEST_PX * 2**halvings

    def forward(self, image_BCYX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (B, 64) and class logits (B, classes) of images (B, C, Y, X) float32 in [-1, 1]."""
        features = self.body(image_BCYX)
        return features, self.head(features)


def classifier_inputs(images_BYXC: torch.Tensor, channels: int, side_px: int) -> torch.Tensor:
    """Convert images to inputs of a classifier.

    Args:
        images_BYXC: (B, Y, X, 1 or 3) uint8, any size.
        channels: 1: channels are averaged; 3: a single one is repeated.
        side_px: Side that other sizes are resized to, by pixel area.

    Returns:
        (B, C, side, side) float32 in [-1, 1].
    """
    image_BCYX = images_BYXC.to(torch.float32).permute(0, 3, 1, 2)
    if image_BCYX.shape[1] != channels:
        image_BCYX = image_BCYX.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    image_BCYX = image_BCYX / 127.5 - 1
    if image_BCYX.shape[-2:] != (side_px, side_px):
        image_BCYX = functional.interpolate(image_BCYX, size=(side_px, side_px), mode="area")
    return image_BCYX


class ClassifierExtractor(FeatureExtractor):
    """A trained classifier: its penultimate layer and its logits."""

    def __init__(self, name: str, network: SmallClassifier, weights_sha256: str) -> None:
        dims = {POOL: NUM_FEATURES, LOGITS: network.head.out_features}
        super().__init__(name, dims, weights_sha256, network.head.weight.device)
        self._network = network
        colours = "grey" if network.channels == 1 else "colour"
        self.preprocessing = f"{colours} {network.side_px}x{network.side_px} by area"

    @torch.inference_mode()
    def prepare(self, images_BYXC: torch.Tensor) -> torch.Tensor:
        """(B, C, side, side) float32 of uint8 images of any size."""
        return classifier_inputs(images_BYXC.to(self._device), self._network.channels, self._network.side_px)

    @torch.inference_mode()
    def run(self, prepared: torch.Tensor) -> dict[str, torch.Tensor]:
        """`pool` (B, 64) float32 of preprocessed images."""
        # TF32, on by default in CUDA convolutions, moves the third digit of a score.
        with float32_products("highest"):
            return {POOL: self._network.body(prepared)}

    @torch.inference_mode()
    def logits(self, pool_BD: torch.Tensor) -> torch.Tensor:
        """(B, classes) float32 class scores of pool features, on the CPU."""
        return self._network.head(pool_BD.to(self._device)).cpu()


def load_classifier(path: Path, name: str, *, device: torch.device = CPU) -> ClassifierExtractor:
    """Read a classifier, whose shape follows from its tensors.

    Args:
        path: Its safetensors file.
        name: Name of the extractor.

    Raises:
        EnvironmentProblem: If the file is missing.
        DataError: If it is damaged or holds another network.
    """
    if not path.is_file():
        raise EnvironmentProblem(f"no extractor weights at {path}", hint="check the path")
    content = path.read_bytes()
    try:
        network = _network_of(load(content))
    except (SafetensorError, RuntimeError, KeyError, ValueError) as err:
        raise DataError(
            f"{path} is not a classifier made by medcli",
            hint="make one with medcli fid --train-extractor FOLDER -o FILE",
        ) from err
    network.requires_grad_(False).eval().to(device)
    return ClassifierExtractor(name, network, hashlib.sha256(content).hexdigest())


def _network_of(tensors: Mapping[str, torch.Tensor]) -> SmallClassifier:
    """Build the network whose tensors these are.

    Raises:
        RuntimeError: If there is none.
    """
    halvings = sum(tensor.ndim == 4 for tensor in tensors.values()) - 3
    channels, num_classes = tensors["body.0.weight"].shape[1], len(tensors["head.weight"])
    if not (0 <= halvings <= MOST_HALVINGS and channels in (1, 3)):
        raise ValueError(f"{halvings} halvings, {channels} channels")
    with torch.device("meta"):
        network = SmallClassifier(channels, num_classes, halvings)
    network.load_state_dict(dict(tensors), assign=True)
    return network


def class_labels(images_BYXC: torch.Tensor, extractor: FeatureExtractor) -> torch.Tensor:
    """Classify (B, Y, X, 1 or 3) uint8 images of any size; returns (B,) int64 labels on the CPU."""
    return extractor.features(images_BYXC)[LOGITS].argmax(dim=1).cpu()
