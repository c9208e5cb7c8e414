import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from medcli.config import ModelConfig
from medcli.cost.macs import closed_form_macs
from medcli.engine.attention_observer import LayerScores
from medcli.errors import ConfigError
from medcli.presets import preset_config
from medcli.runtime.reporting import Silent
from medcli.workflows.analyze.attention import (
    AttentionMap,
    average,
    falls_with_progress,
    redundant_early,
)
from medcli.workflows.analyze.run import AnalyzeRequest, analyze, observed_steps
from medcli.workflows.analyze.suggestion import suggest
from medcli.workflows.sample.settings import SampleRequest

NUM_IMAGES, NUM_STEPS, NUM_HEADS = 6, 8, 3
CONFIG = replace(preset_config("SiT-S/2"), depth=4)
TOKENS = 256
UP, DOWN, FLAT = np.linspace(0.1, 0.4, NUM_STEPS), np.linspace(0.4, 0.1, NUM_STEPS), np.full(NUM_STEPS, 0.2)


def layer(divergence_L: np.ndarray, distinct: float | np.ndarray = 3.0, noise: float = 0.01) -> LayerScores:
    """A layer whose heads and images scatter around what is given; its last head is the most demanding."""
    rng = np.random.default_rng(0)
    shape = (NUM_IMAGES, NUM_STEPS, NUM_HEADS)
    divergence = divergence_L[None, :, None] + noise * rng.standard_normal(shape)
    distinct_ILH = np.ones(shape)
    distinct_ILH[..., -1] = distinct
    return LayerScores(divergence, np.zeros(shape), distinct_ILH)


def seen(*layers: LayerScores, tokens: tuple[int, ...] | None = None) -> AttentionMap:
    return average(layers, tokens or (TOKENS,) * len(layers))


def test_maps_are_means_over_heads_and_images_and_the_most_demanding_head_counts() -> None:
    one = layer(UP, 7.0)
    found = seen(one, layer(FLAT))
    assert found.redundancy_DL.shape == (2, NUM_STEPS)
    np.testing.assert_allclose(found.redundancy_DL[0], one.divergence_ILH.mean((0, 2)))
    np.testing.assert_allclose(found.heads[0], one.divergence_ILH.mean(0))
    np.testing.assert_allclose(found.distinct_DL[0], 7.0)
    by_image_IL = one.divergence_ILH.mean(2)
    np.testing.assert_allclose(found.error_DL[0], by_image_IL.std(0, ddof=1) / math.sqrt(NUM_IMAGES))


def test_layers_may_have_different_numbers_of_heads() -> None:
    wide = LayerScores(*(np.ones((NUM_IMAGES, NUM_STEPS, 5)) for _ in range(3)))
    assert seen(layer(UP), wide).redundancy_DL.shape == (2, NUM_STEPS)


def test_redundancy_that_falls_is_told_from_one_that_grows_layer_by_layer() -> None:
    rising = falls_with_progress(seen(layer(UP), layer(UP), layer(DOWN), layer(FLAT)))
    assert rising.holds
    assert rising.values["layers_falling"] == [0, 1]
    assert rising.values["layers_growing"] == [2]
    assert "layers 0-1" in rising.text
    assert "layer 2" in rising.text
    # First and last of four quarters: two steps each.
    assert rising.values["rise"] == pytest.approx((UP[-2:].mean() - UP[:2].mean()) / 4, abs=0.01)


@pytest.mark.parametrize("course", [DOWN, FLAT])
def test_redundancy_that_does_not_fall_is_not_claimed_to(course: np.ndarray) -> None:
    assert not falls_with_progress(seen(layer(course), layer(course))).holds


def test_a_difference_within_its_error_is_no_finding() -> None:
    # Three images rise by 0.1, three fall by nearly as much: the mean rises, but not by two standard errors.
    rises = np.array([0.1, -0.09, 0.1, -0.09, 0.1, -0.09])
    divergence = 0.3 + rises[:, None, None] * np.linspace(0, 1, NUM_STEPS)[:, None] * np.ones(NUM_HEADS)
    found = falls_with_progress(seen(LayerScores(divergence, *(np.ones_like(divergence) for _ in range(2)))))
    assert found.values["rise"] > 0
    assert not found.holds
    assert found.values["layers_falling"] == []


@pytest.mark.parametrize(("distinct", "holds"), [(10.0, True), (127.0, True), (129.0, False)])
def test_redundant_means_that_fewer_than_half_of_the_queries_differ(distinct: float, holds: bool) -> None:
    found = redundant_early(seen(layer(UP, distinct)))
    assert found.holds is holds
    assert found.values["distinct_share_early"] == pytest.approx(distinct / TOKENS)
    assert found.values["early"] == pytest.approx(UP[:2].mean(), abs=0.01)


def test_only_the_early_steps_decide_whether_attention_is_redundant_early() -> None:
    later = np.full(NUM_STEPS, 200.0)
    later[:2] = 5
    assert redundant_early(seen(layer(UP, later))).holds


def test_layers_whose_queries_differ_little_are_suggested_with_counts_that_cover_them() -> None:
    needs = np.array([3, 3, 3, 10, 10, 10, 30, 30.0])
    found = suggest(seen(layer(UP, needs), layer(UP, 2.0), layer(UP, 80.0), layer(UP, 3.0)), CONFIG)
    assert found.layers == (0, 1, 3)
    assert found.mediators == (4, 16, 36)
    assert "0-1,3" in found.reason
    assert "30.0 of 256" in found.reason


def test_a_ladder_never_falls_even_if_the_need_does() -> None:
    needs = np.array([30, 30, 30, 10, 10, 10, 3, 3.0])
    assert suggest(seen(layer(UP, needs)), replace(CONFIG, depth=1)).mediators == (36,)


def test_savings_are_those_of_the_converted_network() -> None:
    found = suggest(seen(layer(UP, 9.0), layer(UP, 200.0), layer(UP, 9.0), layer(UP, 200.0)), CONFIG)
    assert found.layers == (0, 2)
    converted = replace(CONFIG, mediators=(9,), mediator_layers=(0, 2))
    saved = 100 * (1 - closed_form_macs(converted, num_mediators=9) / closed_form_macs(CONFIG))
    assert found.saving_percent == pytest.approx((saved,))
    assert found.saving_percent[0] > 0


def test_where_nothing_is_redundant_nothing_is_suggested() -> None:
    found = suggest(seen(*(layer(UP, 200.0 - place) for place in range(4))), CONFIG)
    assert (found.layers, found.mediators, found.saving_percent) == ((), (), ())
    assert "layer 3 with 197.0 of 256" in found.reason


def test_counts_fit_the_smallest_grid_they_are_suggested_for() -> None:
    config = ModelConfig(
        family="edt",
        hidden_size=64,
        depth=3,
        num_heads=2,
        stage_depths=(1, 1, 1),
        stage_widths=(64, 96, 64),
        stage_heads=(2, 3, 2),
        patch_size=2,
        latent_size=32,
    )
    # The middle stage has 64 tokens: it could do with 9 mediators, but 30 of its neighbours would not pay there.
    found = suggest(seen(layer(UP, 30.0), layer(UP, 9.0), layer(UP, 2.0), tokens=(256, 64, 256)), config)
    assert found.layers == (0, 2)
    assert found.mediators == (36,)


@pytest.mark.parametrize(
    "change", [{"points": 0}, {"pairs": 0}, {"sampling": SampleRequest(num_images=4, schedule="static")}]
)
def test_requests_from_python_are_checked_too(change: dict[str, Any]) -> None:
    request = AnalyzeRequest(**{"sampling": SampleRequest(num_images=4, schedule="full"), **change})
    with pytest.raises(ConfigError, match="at least 1|full attention"):
        analyze(request, Silent())


def test_observed_steps_run_from_the_first_to_the_last() -> None:
    assert observed_steps(100, 5) == (0, 25, 50, 74, 99)
    assert observed_steps(3, 20) == (0, 1, 2)
    assert observed_steps(9, 1) == (0,)
