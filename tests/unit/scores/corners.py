"""An extractor and images whose features one can compute by hand."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from medcli.data.image_source import ImageArray
from medcli.scores.extractor import LOGITS, POOL, SPATIAL


class Corners:
    """An extractor one can compute by hand: the first pixel's channels, and its sum."""

    name = "corners"
    weights_sha256 = ""
    dims: Mapping[str, int] = {POOL: 3, LOGITS: 1, SPATIAL: 3}
    preprocessing = "none"
    device_type = "cpu"
    rows_per_call = None

    def __init__(self) -> None:
        self.num_calls = 0

    def prepare(self, images_BYXC: torch.Tensor) -> torch.Tensor:
        return images_BYXC[:, 0, 0].float()

    def run(self, prepared: torch.Tensor) -> dict[str, torch.Tensor]:
        self.num_calls += 1
        return {POOL: prepared, SPATIAL: 2 * prepared}

    def logits(self, pool_BD: torch.Tensor) -> torch.Tensor:
        return pool_BD.sum(dim=1, keepdim=True)

    def features(self, images_BYXC: torch.Tensor) -> dict[str, torch.Tensor]:
        raise AssertionError("a pass works in steps")


def images(num: int) -> ImageArray:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (num, 2, 2, 3), dtype=torch.uint8, generator=generator)
    return ImageArray.of("random", pixels)
