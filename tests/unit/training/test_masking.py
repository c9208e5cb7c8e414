"""Masks are a function of (seed, step, row), whatever process or micro-batch draws them."""

import pytest
import torch

from medcli.errors import ConfigError
from medcli.training.masking import MaskRatios, draw_masks, mask_sites
from tests.golden.families_support import config_of


@pytest.mark.parametrize("name", ["edt_s", "edt_xl", "mdtv2"])
def test_parts_of_a_batch_draw_what_the_whole_draws(name):
    config, rows = config_of(name), torch.arange(24, 32)
    whole = draw_masks(config, MaskRatios(), 7, 3, rows)
    for part in (slice(0, 3), slice(3, 8)):
        for site, mask in draw_masks(config, MaskRatios(), 7, 3, rows[part]).items():
            assert torch.equal(mask, whole[site][part])


def test_sites_are_those_of_the_references():
    assert list(mask_sites(config_of("edt_s"), MaskRatios())) == ["down0", "down1"]
    assert mask_sites(config_of("edt_xl"), MaskRatios()) == {
        "mid": (64, (0.15, 0.25)),
        "down0": (64, (0.4, 0.5)),
        "down1": (16, (0.1, 0.2)),
    }
    assert mask_sites(config_of("mdtv2"), MaskRatios()) == {"input": (36, (0.3, 0.5))}
    with pytest.raises(ConfigError, match="edt and mdtv2"):
        mask_sites(config_of("dit_s"), MaskRatios())


def test_the_share_of_dropped_tokens_stays_in_its_range_and_is_one_for_the_batch():
    config = config_of("edt_s")
    seen = []
    for step in range(40):
        keep_BN = draw_masks(config, MaskRatios(), 0, step, torch.arange(256) + 256 * step)["down0"]
        seen.append(1 - float(keep_BN.double().mean()))
        assert keep_BN.sum(dim=1).unique().numel() > 1  # each token by itself: counts differ between images
    assert 0.39 < min(seen) < 0.42
    assert 0.48 < max(seen) < 0.51


def test_mdtv2_keeps_a_fixed_number_of_tokens_in_the_order_of_their_draws():
    kept_BK = draw_masks(config_of("mdtv2"), MaskRatios(input=(0.25, 0.25)), 0, 0, torch.arange(8))["input"]
    assert kept_BK.shape == (8, 27)
    assert all(len(set(row)) == 27 for row in kept_BK.tolist())
    assert any(row != sorted(row) for row in kept_BK.tolist())


@pytest.mark.parametrize("bad", [(0.5, 0.4), (-0.1, 0.2), (0.2, 1.0), (float("nan"), 0.5)])
def test_impossible_ratios_are_refused(bad):
    with pytest.raises(ConfigError, match="mask ratio"):
        MaskRatios(first=bad)
