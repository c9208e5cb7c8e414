import torch

from medcli.data.posterior import draw_latents


def test_latents_are_drawn_around_the_mean_and_anew_at_each_place() -> None:
    mean = torch.full((2000, 1, 2, 2), 3.0)
    std = torch.full_like(mean, 0.5)
    drawn = draw_latents(mean, std, torch.arange(2000), seed=0)
    assert abs(drawn.mean().item() - 3) < 0.03
    assert abs(drawn.std().item() - 0.5) < 0.02
    assert torch.equal(draw_latents(mean[:1], std[:1], torch.tensor([17]), seed=0)[0], drawn[17])
    assert not torch.equal(draw_latents(mean[:1], std[:1], torch.tensor([17]), seed=1)[0], drawn[17])


def test_without_variance_the_mean_is_the_latent() -> None:
    mean = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw_latents(mean, torch.zeros_like(mean), torch.arange(3), seed=5), mean)
