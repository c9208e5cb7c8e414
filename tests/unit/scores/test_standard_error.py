from __future__ import annotations

import pytest
import torch

from medcli.scores.standard_error import standard_error


def test_blocks_of_unequal_size_are_weighted() -> None:
    """Of a mean, leaving out blocks gives the weighted scatter of block means: a closed form for any sizes."""
    values = torch.randn(50, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    sizes = [5, 10, 15, 20]
    blocks = torch.split(values, sizes)
    without = [float((values.sum() - block.sum()) / (50 - len(block))) for block in blocks]
    deviations = [
        (float(block.mean()) - float(values.mean())) ** 2 * len(block) / (50 - len(block)) for block in blocks
    ]
    expected = (sum(deviations) / 4) ** 0.5
    assert standard_error(float(values.mean()), sizes, without) == pytest.approx(expected, rel=1e-9)
