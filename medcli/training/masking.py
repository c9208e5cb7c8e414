"""Which tokens a masked training pass leaves out: drawn as a function of (seed, place in the run).

EDT masks inside its down-samplers, after tokens of a neighbourhood have met; MDTv2 drops tokens at the input.
Source: edt-facts 3 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medcli.config import ModelConfig
from medcli.errors import ConfigError
from medcli.model.edt import MID_BLOCK
from medcli.model.geometry import stages
from medcli.model.masks import DOWN_SITE, INPUT_SITE, MID_SITE, TokenMasks
from medcli.runtime.noise import Stream, uniform

# Dimension key: B batch, N tokens of a site, K tokens kept.

Range = tuple[float, float]
"""Between what the share of dropped tokens is drawn, one draw for the whole batch of a step."""

DEEP_FIRST_STAGE = MID_BLOCK + 1
"""Blocks of the first stage from which EDT also masks in its middle, which the reference does for XL alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskRatios:
    """Shares of tokens dropped. Defaults are the references'.

    Raises:
        ConfigError: If a range is not 0 <= low <= high < 1.
    """

    first: Range = (0.4, 0.5)
    """Inside the first down-sampler."""
    later: Range = (0.1, 0.2)
    """Inside the others."""
    mid: Range = (0.15, 0.25)
    """Before the fifth block of the first stage, where it has as many: tokens become their positions."""
    input: Range = (0.3, 0.5)
    """MDTv2: at the input."""

    def __post_init__(self) -> None:
        for name in ("first", "later", "mid", "input"):
            low, high = getattr(self, name)
            if not 0 <= low <= high < 1:
                raise ConfigError(
                    f"mask ratio {low:g},{high:g}: expected 0 <= LOW <= HIGH < 1", hint="EDT's first is 0.4,0.5"
                )


def mask_sites(config: ModelConfig, ratios: MaskRatios) -> dict[str, tuple[int, Range]]:
    """Tokens and range of ratios of every site of a network.

    Raises:
        ConfigError: If the family has no masked training.
    """
    if config.family == "mdtv2":
        return {INPUT_SITE: (config.num_tokens, ratios.input)}
    if config.family != "edt":
        raise ConfigError(f"masked training is for edt and mdtv2, this is a {config.family}", hint="leave it out")
    all_stages = stages(config)
    sites = {}
    if all_stages[0].depth >= DEEP_FIRST_STAGE:
        sites[MID_SITE] = (all_stages[0].num_tokens, ratios.mid)
    for place in range(len(all_stages) // 2):
        sites[DOWN_SITE.format(place)] = (all_stages[place].num_tokens, ratios.later if place else ratios.first)
    return sites


def draw_masks(config: ModelConfig, ratios: MaskRatios, seed: int, step: int, position_B: Tensor) -> TokenMasks:
    """Masks of some rows of a step's batch.

    Args:
        config: The network.
        ratios: Between what the share of dropped tokens is drawn.
        seed: Of the run.
        step: Optimiser step; every process and micro-batch of it draws the same ratios.
        position_B: (B,) int64 places of the rows in the run's whole sequence.

    Returns:
        By site as `DiffusionTransformer.forward` takes them.
    """
    masks: dict[str, Tensor] = {}
    for number, (site, (num_tokens, (low, high))) in enumerate(mask_sites(config, ratios).items()):
        step_1, place_1 = torch.tensor([step]), torch.tensor([number])
        ratio = low + (high - low) * float(uniform(seed, step_1, place_1, 1, Stream.TRAIN_MASK_RATIO))
        draw_BN = uniform(seed, position_B, torch.full_like(position_B, number), num_tokens, Stream.TRAIN_MASK)
        if site == INPUT_SITE:
            masks[site] = draw_BN.argsort(dim=1, stable=True)[:, : int(num_tokens * (1 - ratio))]
        else:
            masks[site] = draw_BN >= ratio
    return masks
