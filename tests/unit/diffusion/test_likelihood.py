from __future__ import annotations

import pytest
import torch

from medcli.diffusion.likelihood import log_likelihood
from medcli.sampler_config import PredictionName, SamplerConfig
from tests.unit.diffusion.gaussian_data import MEAN, STD, exact_network


@pytest.mark.parametrize("prediction", ["velocity", "noise"])
def test_likelihood_of_gaussian_data_is_exact(prediction: PredictionName) -> None:
    data = MEAN + STD * torch.linspace(-1, 1, 12).view(3, 1, 2, 2)
    config = SamplerConfig(sampler="ode", solver="rk4", steps=200, prediction=prediction)
    found, noise = log_likelihood(exact_network("linear", prediction), data, config, lambda: torch.ones_like(data))
    expected = torch.distributions.Normal(MEAN, STD).log_prob(data).flatten(1).sum(1)
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=2e-2)
    torch.testing.assert_close(noise, (data - MEAN) / STD, rtol=5e-3, atol=1e-2)
