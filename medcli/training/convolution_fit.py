"""The depth-wise convolution that makes up best for what mediators miss: least squares, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Dimension key: B batch, D channels, N tokens, Y X grid height and width, J = 10 features: nine taps and a constant.

TAPS = 9
RIDGE = 1e-6
"""Added to the diagonal, as a share of its mean: a channel that never changes leaves its taps undetermined."""
MOST_NUMBERS = 2**23
"""Float64 features that are in memory at a time."""


class NormalEquations:
    """Sums of a least-squares problem for each channel, gathered a batch at a time in float64.

    Args:
        channels: Of the convolution.
        device: Where batches come from.
    """

    def __init__(self, channels: int, device: torch.device) -> None:
        features = TAPS + 1
        self.gram_DJJ = torch.zeros(channels, features, features, dtype=torch.float64, device=device)
        self.moment_DJ = torch.zeros(channels, features, dtype=torch.float64, device=device)

    def add(self, value_BDYX: Tensor, wanted_BDN: Tensor) -> None:
        """Count in images that the convolution reads, and what its output on them should be."""
        _, channels, height, width = value_BDYX.shape
        size = max(1, MOST_NUMBERS // (channels * height * width * (TAPS + 1)))
        for value, wanted in zip(value_BDYX.split(size), wanted_BDN.split(size), strict=True):
            features_DJM = features(value)
            wanted_DM = wanted.transpose(0, 1).flatten(1).double()
            self.gram_DJJ += features_DJM @ features_DJM.mT
            self.moment_DJ += (features_DJM @ wanted_DM[..., None])[..., 0]

    def solve(self) -> tuple[Tensor, Tensor]:
        """Weight (D, 1, 3, 3) and bias (D,) of the least squared error, float64."""
        mean_D = self.gram_DJJ.diagonal(dim1=1, dim2=2).mean(1)
        identity_JJ = torch.eye(TAPS + 1, dtype=torch.float64, device=mean_D.device)
        damped_DJJ = self.gram_DJJ + RIDGE * mean_D[:, None, None] * identity_JJ
        solution_DJ = torch.linalg.solve(damped_DJJ, self.moment_DJ)
        return solution_DJ[:, :TAPS].reshape(-1, 1, 3, 3), solution_DJ[:, TAPS]


def features(value_BDYX: Tensor) -> Tensor:
    """What the outputs of a padded 3 x 3 convolution are made of: taps row by row, then 1; (D, J, B N) float64."""
    batch, channels, height, width = value_BDYX.shape
    single = value_BDYX.double().reshape(batch * channels, 1, height, width)
    taps_BDTN = F.unfold(single, kernel_size=3, padding=1).reshape(batch, channels, TAPS, height * width)
    ones_BD1N = taps_BDTN.new_ones(batch, channels, 1, height * width)
    return torch.cat([taps_BDTN, ones_BD1N], dim=2).permute(1, 2, 0, 3).flatten(2)
