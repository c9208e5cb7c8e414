"""A problem with a known answer: data from N(MEAN, STD^2), for which every prediction has a closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from medcli.diffusion.interpolant import path_point
from medcli.diffusion.steps import Predict
from medcli.settings.sampler import PathName, PredictionName

MEAN, STD = 0.8, 0.5


def exact_network(path: PathName, prediction: PredictionName) -> Predict:
    """The network that a perfect training run would find."""

    def predict(x: Tensor, t: Tensor) -> Tensor:
        point = path_point(path, t.double().view(-1, 1, 1, 1))
        alpha, sigma = point.alpha, point.sigma
        centred = (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
        data, noise = MEAN + alpha * STD**2 * centred, sigma * centred
        if prediction == "velocity":
            return (point.d_alpha * data + point.d_sigma * noise).to(x.dtype)
        return (noise if prediction == "noise" else -centred).to(x.dtype)

    return predict


def standard_normal(count: int, seed: int = 0) -> Tensor:
    """(count, 1, 1, 1) float32."""
    return torch.randn(count, 1, 1, 1, generator=torch.Generator().manual_seed(seed))
