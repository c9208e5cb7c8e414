"""Which tokens a masked training pass leaves out: drawn as a function of (seed, place in the run).

EDT masks inside its down-samplers, after tokens of a neighbourhood have met; MDTv2 drops tokens at the input. For
comparison an EDT can also be masked at its input: its grid can't lose tokens, so they become their positions there.
Source: edt-facts 3 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from medcli.config import ModelConfig
from medcli.errors import ConfigError
from medcli.model.block import DOWN_SITE, INPUT_SITE, MID_SITE, TokenMasks
from medcli.model.edt import MID_BLOCK
from medcli.model.layout import stages
from medcli.runtime.noise import Stream, uniform

# Dimension key: B batch, N tokens of a site, K tokens kept.

Range = tuple[float, float]
"""Between what the share of dropped tokens is drawn, one draw for the whole batch of a step."""

Place = Literal["down", "input"]

DEEP_FIRST_STAGE = MID_BLOCK + 1
"""Blocks of the first stage from which EDT also masks in its middle, which the reference does for XL alone."""
REFERENCE_RATIOS: dict[Place, tuple[Range, ...]] = {"down": ((0.4, 0.5), (0.1, 0.2)), "input": ((0.3, 0.5),)}
"""What the references train with: EDT's first down-sampler and the others; MDTv2's input."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Masking:
    """Where a masked pass leaves tokens out, and how many.

    Raises:
        ConfigError: If a value is unknown, or a range is not 0 <= low <= high < 1.
    """

    where: Place = "down"
    """`down`: inside EDT's down-samplers, so that blocks before the first one see all tokens. `input`: before the
    first block, as MDT does."""
    ratios: tuple[Range, ...] = ()
    """Ranges of the share that is dropped: of the down-samplers in order, the last one also for those that follow; of
    the input, one. Empty: the references'."""
    mid: Range | None = (0.15, 0.25)
    """With `down`, before the fifth block of the first stage, where it has as many: tokens become their positions."""

    def __post_init__(self) -> None:
        if self.where not in get_args(Place):
            raise ConfigError(f"--mask {self.where!r}: expected one of {', '.join(get_args(Place))}")
        if self.where == "input" and len(self.ratios) > 1:
            raise ConfigError(f"--mask input takes one range of ratios, got {len(self.ratios)}", hint="try 0.3-0.5")
        for low, high in (*self.ratios, *([self.mid] if self.mid else [])):
            if not 0 <= low <= high < 1:
                raise ConfigError(
                    f"mask ratio {low:g}-{high:g}: expected 0 <= LOW <= HIGH < 1", hint="EDT's first is 0.4-0.5"
                )

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The ranges, the references' where none are given."""
        return self.ratios or REFERENCE_RATIOS[self.where]


def mask_sites(config: ModelConfig, masking: Masking) -> dict[str, tuple[int, Range]]:
    """Tokens and range of ratios of every site of a network.

    Raises:
        ConfigError: If the family has no masked training of this kind, or fewer sites than ranges.
    """
    if config.family not in ("edt", "mdtv2"):
        raise ConfigError(f"masked training is for edt and mdtv2, this is a {config.family}", hint="leave --mask out")
    ranges, all_stages = masking.ranges, stages(config)
    if masking.where == "input":
        return {INPUT_SITE: (config.num_tokens, ranges[0])}
    if config.family == "mdtv2":
        raise ConfigError("an mdtv2 has no down-samplers to mask in", hint="use --mask input")
    num_down = len(all_stages) // 2
    if len(masking.ratios) > num_down:
        raise ConfigError(f"{len(masking.ratios)} ranges of mask ratios for {num_down} down-samplers")
    sites = {}
    if masking.mid and all_stages[0].depth >= DEEP_FIRST_STAGE:
        sites[MID_SITE] = (all_stages[0].num_tokens, masking.mid)
    for place in range(num_down):
        sites[DOWN_SITE.format(place)] = (all_stages[place].num_tokens, ranges[min(place, len(ranges) - 1)])
    return sites


def draw_masks(config: ModelConfig, masking: Masking, seed: int, step: int, position_B: Tensor) -> TokenMasks:
    """Masks of some rows of a step's batch.

    Args:
        config: The network.
        masking: Where, and between what the share of dropped tokens is drawn.
        seed: Of the run.
        step: Optimiser step; every process and micro-batch of it draws the same ratios.
        position_B: (B,) int64 places of the rows in the run's whole sequence.

    Returns:
        By site as `DiffusionTransformer.forward` takes them.
    """
    masks: dict[str, Tensor] = {}
    for number, (site, (num_tokens, (low, high))) in enumerate(mask_sites(config, masking).items()):
        step_1, place_1 = torch.tensor([step]), torch.tensor([number])
        ratio = low + (high - low) * float(uniform(seed, step_1, place_1, 1, Stream.TRAIN_MASK_RATIO))
        draw_BN = uniform(seed, position_B, torch.full_like(position_B, number), num_tokens, Stream.TRAIN_MASK)
        if config.family == "mdtv2":
            masks[site] = draw_BN.argsort(dim=1, stable=True)[:, : int(num_tokens * (1 - ratio))]
        else:
            masks[site] = draw_BN >= ratio
    return masks
