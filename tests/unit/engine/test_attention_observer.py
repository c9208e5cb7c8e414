from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medcli.config import ModelConfig
from medcli.diffusion.steps import build_sampler
from medcli.engine.attention_observer import AttentionObserver
from medcli.engine.generate import generate
from medcli.engine.networks import Guidance, ladder_networks
from medcli.engine.observer import StepRows
from medcli.engine.plan import FinishedImage, Labels, SamplingPlan, philox_noise
from medcli.model.backbone import DiffusionTransformer
from medcli.schedule.spec import FULL
from medcli.scores.redundancy import redundancy
from medcli.settings.sampler import SamplerConfig
from tests.unit.engine.tiny import PIXELS, model_of, with_ladder

DENSE = with_ladder(PIXELS)
SDE = SamplerConfig(steps=6)
DDPM = SamplerConfig(sampler="ddpm", steps=6)
EDT = ModelConfig(
    family="edt",
    hidden_size=16,
    depth=3,
    num_heads=2,
    stage_depths=(1, 1, 1),
    stage_widths=(16, 24, 16),
    stage_heads=(2, 3, 2),
    patch_size=1,
    latent_size=4,
    in_channels=1,
    num_classes=10,
    autoencoder=None,
    latent_scale=1.0,
    latent_downsample=1,
)
MDT = replace(DENSE, family="mdtv2", depth=3, decoder_depth=1, learn_sigma=True)
FAMILIES = {
    "sit": (DENSE, SDE),
    "sit with a ladder, run dense": (PIXELS, SDE),
    "dit": (replace(DENSE, family="dit", learn_sigma=True), DDPM),
    "edt": (EDT, DDPM),
    "mdtv2": (MDT, DDPM),
}
IMAGES, STEPS = (0, 1, 2, 3, 7), (0, 2, 5)


def plan_of(sampler: SamplerConfig, **settings: Any) -> SamplingPlan:
    labels = Labels(classes=tuple(range(10)))
    return SamplingPlan(**{"sampler": sampler, "schedule": FULL, "labels": labels, "batch_size": 3, **settings})


def make(model: DiffusionTransformer, plan: SamplingPlan, watch: AttentionObserver | None) -> list[FinishedImage]:
    networks = ladder_networks(model, FULL.counts)
    if watch is not None:
        networks = tuple(map(watch.wrapped, networks))
    return sorted(generate(networks, plan, IMAGES, observer=watch), key=lambda image: image.index)


def brute_weights(attn: Any, x_BND: Tensor) -> Tensor:
    """Attention of a layer by plain matrix products, (B, H, N, N)."""
    width = attn.qk_size
    query, key = attn.qkv(x_BND)[..., : 2 * width].chunk(2, dim=-1)
    query, key = (part.unflatten(-1, (attn.num_heads, -1)).permute(0, 2, 1, 3) for part in (query, key))
    scores = query @ key.mT / attn.head_width**0.5
    if attn.has_relative_bias:
        scores = scores + attn.rel_pos_bias()
    return scores.softmax(-1)


@torch.no_grad()
def plain_scores(model: DiffusionTransformer, plan: SamplingPlan, index: int) -> list[list[Tensor]]:
    """Scores of each watched step and layer, (H,), of one image made by itself in a plain loop."""
    sampler = build_sampler(plan.sampler)
    config = model.config
    noise = philox_noise(plan.seed, (config.in_channels, config.latent_size, config.latent_size))
    index_B, inputs, found = torch.tensor([index]), dict[int, Tensor](), []
    label_B, x = plan.labels.of(plan.seed, index_B), noise(index_B, torch.tensor([0]))
    blocks = model.ordered_blocks()
    for layer, block in enumerate(blocks):
        block.attn.register_forward_pre_hook(lambda _, args, layer=layer: inputs.update({layer: args[0]}))
    for step in range(sampler.num_steps):
        inputs.clear()
        x = sampler.step(
            lambda x, t: model(x, t, label_B, 0), x, torch.tensor([step]), noise(index_B, torch.tensor([step + 1]))
        )
        if step in STEPS:
            weights = [
                brute_weights(block.attn, inputs[layer])[0] for layer, block in enumerate(model.ordered_blocks())
            ]
            found.append([_score(part) for part in weights])
    for block in model.ordered_blocks():
        block.attn._forward_pre_hooks.clear()
    return found


def _score(weights_HNN: Tensor) -> Tensor:
    return redundancy(lambda heads, rows: weights_HNN[heads][:, rows], *weights_HNN.shape[:2]).divergence_G


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_the_attention_that_runs(family: str) -> None:
    config, sampler = FAMILIES[family]
    model = model_of(config)
    plan = plan_of(sampler, seed=5)
    watch = AttentionObserver(model, IMAGES, STEPS)
    watched, plain = make(model, plan, watch), make(model, plan, None)
    assert all(torch.equal(one.latent_CYX, other.latent_CYX) for one, other in zip(watched, plain, strict=True))
    assert not any(block.attn._forward_pre_hooks for block in model.ordered_blocks()), "nothing stays attached"
    for place, index in ((1, 1), (4, 7)):
        for step_place, layers in enumerate(plain_scores(model, plan, index)):
            for layer, expected_H in enumerate(layers):
                seen_H = watch.layers[layer].divergence_ILH[place, step_place]
                np.testing.assert_allclose(seen_H, expected_H, atol=2e-5)
    assert all(np.isfinite(seen.divergence_ILH).all() for seen in watch.layers)
    assert max(seen.divergence_ILH.max() for seen in watch.layers) > 1e-3, "there should be something to see"


def test_guided_steps_score_the_conditional_half_and_heun_its_first_call() -> None:
    model = model_of(DENSE)
    heun, euler = (SamplerConfig(sampler="ode", solver=solver, steps=6) for solver in ("heun", "euler"))
    watch, unguided = AttentionObserver(model, IMAGES, (0,)), AttentionObserver(model, IMAGES, (0,))
    make(model, plan_of(heun, guidance=Guidance(scale=3.0, channels=None)), watch)
    make(model, plan_of(euler), unguided)
    # All start from the same noise, so their first network call is the same.
    np.testing.assert_allclose(watch.layers[0].divergence_ILH, unguided.layers[0].divergence_ILH, atol=1e-5)
    np.testing.assert_allclose(watch.layers[1].divergence_ILH, unguided.layers[1].divergence_ILH, atol=1e-5)


def test_a_random_choice_of_pairs_does_not_depend_on_the_batch() -> None:
    model, plan = model_of(DENSE), plan_of(SDE)
    watches = [AttentionObserver(model, IMAGES, STEPS, seed=1, max_pairs=32) for _ in range(2)]
    make(model, plan, watches[0])
    make(model, replace(plan, batch_size=5), watches[1])
    other = AttentionObserver(model, IMAGES, STEPS, seed=2, max_pairs=32)
    make(model, plan, other)
    for one, two, three in zip(watches[0].layers, watches[1].layers, other.layers, strict=True):
        np.testing.assert_allclose(one.divergence_ILH, two.divergence_ILH, atol=1e-5)
        assert np.abs(one.divergence_ILH - three.divergence_ILH).max() > 1e-4, "another seed, other pairs"
        assert (one.error_ILH > 0).all()
        np.testing.assert_allclose(one.distinct_ILH, three.distinct_ILH, atol=1e-5)


def test_images_at_different_steps_are_told_apart_within_a_batch() -> None:
    attn = model_of(DENSE).ordered_blocks()[1].attn
    x_BND = torch.randn(4, DENSE.num_tokens, DENSE.hidden_size, generator=torch.Generator().manual_seed(0))
    watch = AttentionObserver(model_of(DENSE), IMAGES, STEPS)
    with torch.no_grad():
        watch.note(1, StepRows(torch.tensor([7, 0, 2]), torch.tensor([1, 5, 0]), 0), attn, x_BND)
        expected_BH = torch.stack([_score(weights_HNN) for weights_HNN in brute_weights(attn, x_BND)])
    seen = watch.layers[1].divergence_ILH
    np.testing.assert_allclose(seen[0, 2], expected_BH[1], atol=1e-5)
    np.testing.assert_allclose(seen[2, 0], expected_BH[2], atol=1e-5)
    assert np.isfinite(seen).sum() == 2 * DENSE.num_heads, "one was at a step that is not watched, one was padding"


def test_pairs_are_drawn_anew_for_each_image_step_and_layer() -> None:
    model = model_of(DENSE)
    attn = model.ordered_blocks()[0].attn
    x_1ND = torch.randn(1, DENSE.num_tokens, DENSE.hidden_size, generator=torch.Generator().manual_seed(0))
    watch = AttentionObserver(model, IMAGES, STEPS, max_pairs=16)
    with torch.no_grad():
        watch.note(0, StepRows(torch.tensor([0, 2]), torch.tensor([0, 0]), 0), attn, x_1ND.expand(2, -1, -1))
        watch.note(0, StepRows(torch.tensor([0]), torch.tensor([2]), 0), attn, x_1ND)
        watch.note(1, StepRows(torch.tensor([0]), torch.tensor([0]), 0), attn, x_1ND)
    first, second = (watch.layers[layer].divergence_ILH for layer in (0, 1))
    estimates = [first[0, 0], first[2, 0], first[0, 1], second[0, 0]]
    for place, one in enumerate(estimates):
        for other in estimates[:place]:
            assert np.abs(one - other).max() > 1e-4, "the same pairs"
