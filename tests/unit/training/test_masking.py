"""Masks are a function of (seed, step, row), whatever process or micro-batch draws them."""

import pytest
import torch

from medcli.errors import ConfigError
from medcli.training.masking import Masking, draw_masks, mask_sites
from tests.golden.families_support import config_of

DOWN, INPUT = Masking(), Masking(where="input")


@pytest.mark.parametrize(("name", "masking"), [("edt_s", DOWN), ("edt_xl", DOWN), ("edt_s", INPUT), ("mdtv2", INPUT)])
def test_parts_of_a_batch_draw_what_the_whole_draws(name, masking):
    config, rows = config_of(name), torch.arange(24, 32)
    whole = draw_masks(config, masking, 7, 3, rows)
    for part in (slice(0, 3), slice(3, 8)):
        for site, mask in draw_masks(config, masking, 7, 3, rows[part]).items():
            assert torch.equal(mask, whole[site][part])


def test_sites_are_those_of_the_references():
    assert list(mask_sites(config_of("edt_s"), DOWN)) == ["down0", "down1"]
    assert mask_sites(config_of("edt_xl"), DOWN) == {
        "mid": (64, (0.15, 0.25)),
        "down0": (64, (0.4, 0.5)),
        "down1": (16, (0.1, 0.2)),
    }
    assert mask_sites(config_of("mdtv2"), INPUT) == {"input": (36, (0.3, 0.5))}
    assert mask_sites(config_of("edt_xl"), INPUT) == {"input": (64, (0.3, 0.5))}


def test_each_down_sampler_has_its_range_and_the_last_range_serves_the_rest():
    ranges = mask_sites(config_of("edt_xl"), Masking(ratios=((0.2, 0.3),), mid=None))
    assert ranges == {"down0": (64, (0.2, 0.3)), "down1": (16, (0.2, 0.3))}


@pytest.mark.parametrize(
    ("name", "masking", "error"),
    [
        ("dit_s", DOWN, "edt and mdtv2"),
        ("mdtv2", DOWN, "no down-samplers"),
        ("edt_s", Masking(ratios=((0.1, 0.2),) * 3), "3 ranges of mask ratios for 2 down-samplers"),
    ],
)
def test_masking_that_a_network_can_not_have_is_refused(name, masking, error):
    with pytest.raises(ConfigError, match=error):
        mask_sites(config_of(name), masking)


def test_the_share_of_dropped_tokens_stays_in_its_range_and_is_one_for_the_batch():
    config = config_of("edt_s")
    seen = []
    for step in range(40):
        keep_BN = draw_masks(config, DOWN, 0, step, torch.arange(256) + 256 * step)["down0"]
        seen.append(1 - float(keep_BN.double().mean()))
        assert keep_BN.sum(dim=1).unique().numel() > 1  # each token by itself: counts differ between images
    assert 0.39 < min(seen) < 0.42
    assert 0.48 < max(seen) < 0.51


def test_mdtv2_keeps_a_fixed_number_of_tokens_in_the_order_of_their_draws():
    masking = Masking(where="input", ratios=((0.25, 0.25),))
    kept_BK = draw_masks(config_of("mdtv2"), masking, 0, 0, torch.arange(8))["input"]
    assert kept_BK.shape == (8, 27)
    assert all(len(set(row)) == 27 for row in kept_BK.tolist())
    assert any(row != sorted(row) for row in kept_BK.tolist())


@pytest.mark.parametrize("bad", [(0.5, 0.4), (-0.1, 0.2), (0.2, 1.0), (float("nan"), 0.5)])
def test_impossible_ratios_are_refused(bad):
    for settings in ({"ratios": (bad,)}, {"mid": bad}):
        with pytest.raises(ConfigError, match="mask ratio"):
            Masking(**settings)


def test_one_range_is_enough_for_the_input():
    with pytest.raises(ConfigError, match="takes one range"):
        Masking(where="input", ratios=((0.1, 0.2), (0.3, 0.4)))
