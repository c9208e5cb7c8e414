"""The bundled feature extractor: a small classifier of hand-written digits.

Dimension key: B batch, Y X image height and width, C channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn
from torch.nn import functional

from medcli.data.assets import asset_path
from medcli.errors import DataError, EnvironmentProblem
from medcli.runtime.precision import float32_products
from medcli.scores.extractor import CPU, DIGITS, LOGITS, POOL

CLASSIFIER = "digits-classifier.safetensors"
SIDE = 8
"""Side of the network's input, in pixels."""
NUM_FEATURES = 64
NUM_CLASSES = 10


class DigitClassifier(nn.Module):
    """Two convolutions, a pooling, a third convolution and two linear layers: 120 thousand parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.SiLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            # SiLU rather than ReLU: no feature is dead, so the Gaussians that FID compares have full rank.
            nn.Linear(64 * (SIDE // 2) ** 2, NUM_FEATURES),
            nn.SiLU(),
        )
        self.head = nn.Linear(NUM_FEATURES, NUM_CLASSES)

    def forward(self, grey_B1YX: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (B, 64) and class logits (B, 10) of grey images (B, 1, 8, 8) float32 in [-1, 1]."""
        features = self.body(grey_B1YX)
        return features, self.head(features)


def grey_8x8(images_BYXC: torch.Tensor) -> torch.Tensor:
    """Convert images to the classifier's input.

    Args:
        images_BYXC: (B, Y, X, 1 or 3) uint8.

    Returns:
        (B, 1, 8, 8) float32 in [-1, 1]: channels averaged, other sizes resized by pixel area.
    """
    grey_B1YX = images_BYXC.to(torch.float32).mean(dim=-1).unsqueeze(1) / 127.5 - 1
    if grey_B1YX.shape[-2:] != (SIDE, SIDE):
        grey_B1YX = functional.interpolate(grey_B1YX, size=(SIDE, SIDE), mode="area")
    return grey_B1YX


class DigitsExtractor:
    """The trained classifier as a `FeatureExtractor`: its penultimate layer and its logits."""

    name = DIGITS
    dims: Mapping[str, int] = MappingProxyType({POOL: NUM_FEATURES, LOGITS: NUM_CLASSES})
    preprocessing = "grey 8x8 by area"
    rows_per_call = None

    def __init__(self, network: DigitClassifier, weights_sha256: str) -> None:
        self._network = network
        self.weights_sha256 = weights_sha256

    @property
    def device_type(self) -> str:
        """`cpu`, `cuda` or `mps`."""
        return self._network.head.weight.device.type

    @torch.inference_mode()
    def prepare(self, images_BYXC: torch.Tensor) -> torch.Tensor:
        """(B, 1, 8, 8) float32 of uint8 images of any size."""
        return grey_8x8(images_BYXC.to(self._network.head.weight.device))

    @torch.inference_mode()
    def run(self, prepared: torch.Tensor) -> dict[str, torch.Tensor]:
        """`pool` (B, 64) float32 of preprocessed images."""
        # TF32, on by default in CUDA convolutions, moves the third digit of a score.
        with float32_products("highest"):
            return {POOL: self._network.body(prepared)}

    @torch.inference_mode()
    def logits(self, pool_BD: torch.Tensor) -> torch.Tensor:
        """(B, 10) float32 class scores of pool features, on the CPU."""
        return self._network.head(pool_BD.to(self._network.head.weight.device)).cpu()

    def features(self, images_BYXC: torch.Tensor) -> dict[str, torch.Tensor]:
        """Features of uint8 images of any size: `pool` (B, 64) and `logits` (B, 10), float32."""
        found = self.run(self.prepare(images_BYXC))
        return {**found, LOGITS: self.logits(found[POOL])}


def load_digits_extractor(weights_path: Path | None = None, *, device: torch.device = CPU) -> DigitsExtractor:
    """Read the classifier.

    Args:
        weights_path: A file made by `python docs/scripts/digits_assets.py classifier`; None takes the bundled one.
        device: Where the network runs.

    Raises:
        EnvironmentProblem: If the file is missing.
        DataError: If it is damaged or holds another network.
    """
    path = weights_path or asset_path(CLASSIFIER)
    if not path.is_file():
        raise EnvironmentProblem(f"no extractor weights at {path}", hint="leave out --extractor-weights")
    content = path.read_bytes()
    with torch.device("meta"):
        network = DigitClassifier()
    try:
        network.load_state_dict(load(content), assign=True)
    except (SafetensorError, RuntimeError) as err:
        raise DataError(
            f"{path} is not a digit classifier of this program", hint="leave out --extractor-weights"
        ) from err
    network.requires_grad_(False).eval().to(device)
    return DigitsExtractor(network, hashlib.sha256(content).hexdigest())


def digit_labels(images_BYXC: torch.Tensor, extractor: DigitsExtractor | None = None) -> torch.Tensor:
    """Classify images of digits.

    Args:
        images_BYXC: (B, Y, X, 1 or 3) uint8, any size.
        extractor: The classifier; None loads the bundled one.

    Returns:
        (B,) int64 in 0..9, on the CPU.
    """
    extractor = extractor or load_digits_extractor()
    return extractor.features(images_BYXC)[LOGITS].argmax(dim=1).cpu()
