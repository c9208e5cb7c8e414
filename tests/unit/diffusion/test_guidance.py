from __future__ import annotations

import math

import torch

from medcli.diffusion.guidance import combine, power_cosine_scale

COND, NULL = torch.randn(2, 2, 8, 3, 3, generator=torch.Generator().manual_seed(0))


def test_three_channels_are_guided_by_default_and_the_rest_is_the_conditional_output() -> None:
    guided = combine(COND, NULL, 2.5, latent_channels=4)
    torch.testing.assert_close(guided[:, :3], (NULL + 2.5 * (COND - NULL))[:, :3])
    assert torch.equal(guided[:, 3:], COND[:, 3:])


def test_all_channels_means_the_latents_not_the_variances() -> None:
    guided = combine(COND, NULL, 2.5, None, latent_channels=4)
    torch.testing.assert_close(guided[:, :4], (NULL + 2.5 * (COND - NULL))[:, :4])
    assert torch.equal(guided[:, 4:], COND[:, 4:])


def test_a_grey_image_model_never_has_its_variance_guided() -> None:
    guided = combine(COND[:, :2], NULL[:, :2], 2.5, latent_channels=1)
    assert torch.equal(guided[:, 1:], COND[:, 1:2])
    assert not torch.equal(guided[:, :1], COND[:, :1])


def test_the_growing_scale_follows_its_formula() -> None:
    scale_B = power_cosine_scale(3.0, 2.0, torch.tensor([1000.0, 500.0, 0.0], dtype=torch.float64))
    expected = [1.0, 1 + 2 * (1 - math.cos(math.pi / 4)) / 2, 3.0]
    torch.testing.assert_close(scale_B, torch.tensor(expected, dtype=torch.float64))
