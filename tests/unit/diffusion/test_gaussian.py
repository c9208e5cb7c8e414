from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from medcli.diffusion.gaussian import (
    gaussian_tables,
    kept_timesteps,
    log_snr_timesteps,
    log_variance,
    p_mean_variance,
    predicted_data,
    respace,
)
from medcli.diffusion.gaussian import q_sample as noised
from medcli.errors import ConfigError
from medcli.settings.sampler import SamplerConfig


@pytest.mark.parametrize("spec", ["0", "1001", "-5", "abc", "10,0", "600,500", "ddim", "ddim0", "ddim5,5", "10,,10"])
def test_a_spacing_that_cannot_be_met_is_refused(spec: str) -> None:
    with pytest.raises(ConfigError):
        respace(spec)


def test_a_perfect_noise_prediction_gives_back_the_data() -> None:
    tables, index = gaussian_tables(respace("50")), torch.tensor([0, 20, 49])
    data, noise = torch.randn(2, 3, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    x = noised(tables, data, noise, index)
    torch.testing.assert_close(predicted_data(tables, x, noise, index), data, rtol=1e-3, atol=1e-3)


def test_variance_channels_run_from_the_posteriors_to_beta() -> None:
    tables, index, x = gaussian_tables(respace("50")), torch.tensor([0, 20]), torch.zeros(2, 1, 1, 1)
    lowest = log_variance(tables, x, torch.full((2, 2, 1, 1), -1.0), index).flatten()
    highest = log_variance(tables, x, torch.full((2, 2, 1, 1), 1.0), index).flatten()
    torch.testing.assert_close(lowest, tables.posterior_log_variance[index].float())
    torch.testing.assert_close(highest, tables.betas[index].log().float())


def test_a_network_without_variance_channels_gets_beta() -> None:
    tables, index = gaussian_tables(respace("50")), torch.tensor([0, 1, 20])
    step = p_mean_variance(tables, torch.zeros(3, 2, 1, 1), torch.zeros(3, 2, 1, 1), index)
    expected = torch.stack([tables.posterior_variance[1], tables.betas[1], tables.betas[20]]).float()
    torch.testing.assert_close(step.variance[:, 0, 0, 0], expected, rtol=1e-5, atol=0)


def test_tables_are_float64_and_used_as_float32() -> None:
    tables = gaussian_tables(respace("10"))
    moved = tables.to("cpu")
    assert (tables.betas.dtype, moved.betas.dtype, moved.timesteps.dtype) == (torch.float64, torch.float32, torch.int64)


def test_log_snr_timesteps_are_distinct_and_keep_both_ends() -> None:
    abar = gaussian_tables(range(1000)).alphas_cumprod.numpy()
    for count in (2, 7, 50, 400, 1000):
        kept = log_snr_timesteps(count)
        assert len(kept) == count
        assert (kept[0], kept[-1]) == (0, 999)
        assert all(later > earlier for earlier, later in pairwise(kept))
    gaps = -np.diff(np.log(abar / (1 - abar))[log_snr_timesteps(10)])
    assert gaps.max() / gaps.min() < 1.1


def test_more_timesteps_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match="1000 timesteps"):
        kept_timesteps(SamplerConfig(sampler="ddim", solver="multistep2", steps=1001, grid="logsnr"))
