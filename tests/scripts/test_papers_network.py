from dataclasses import replace

import pytest
import torch

from papers_network import PapersNetwork
from tests.unit.engine.tiny import LADDER, PIXELS, model_of, with_ladder

CONFIGS = {
    "ladder": PIXELS,
    "one count": with_ladder(PIXELS, 4),
    "some blocks": replace(PIXELS, mediator_layers=(1,)),
    "dit": replace(PIXELS, family="dit", learn_sigma=True),
    "narrow q and k": replace(with_ladder(PIXELS), qk_ratio=0.5),
    "two outputs": replace(PIXELS, learn_sigma=True, in_channels=3),
}


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_the_papers_network_equals_the_model_at_every_count(name: str) -> None:
    config = CONFIGS[name]
    model = model_of(config)
    latent, label = torch.randn(3, config.in_channels, 8, 8), torch.tensor([0, 7, 10])
    t = torch.tensor([3, 500, 999]) if config.family == "dit" else torch.tensor([0.0, 0.3, 0.96])
    for count in (0, *config.mediators):
        expected = model(latent, t, label, count)
        actual = PapersNetwork(model.state_dict(), config, count)(latent, t, label)
        assert actual.shape == expected.shape
        assert (actual - expected).abs().max() <= 1e-6 * expected.abs().max()


@torch.no_grad()
def test_the_papers_network_repeats_biases_and_writes_softmax_out_in_each_mediator_block() -> None:
    model = model_of()
    papers = PapersNetwork(model.state_dict(), PIXELS, LADDER[-1])
    with torch.profiler.profile() as profile:
        papers(torch.randn(1, 1, 8, 8), torch.zeros(1), torch.tensor([0]))
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["aten::upsample_bilinear2d"] == 2 * PIXELS.depth
    assert calls["aten::repeat"] == 4 * PIXELS.depth
    assert calls["aten::softmax"] == 2 * PIXELS.depth
    assert not any("scaled_dot_product" in name for name in calls)
