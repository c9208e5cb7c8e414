"""Token masks of masked training, as a function of (seed, position in the run).

EDT masks inside its down-samplers; MDTv2 drops tokens at the input. For comparison an EDT can also be masked at its
input: its grid can't lose tokens, so masked ones are replaced by their position embeddings there.
Source: edt-facts 3 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medcli.config import ModelConfig
from medcli.errors import ConfigError
from medcli.model.block import DOWN_SITE, INPUT_SITE, MID_SITE, TokenMasks
from medcli.model.edt import MID_BLOCK
from medcli.model.layout import stages
from medcli.runtime.noise import Stream, uniform
from medcli.settings.finetune import FinetuneRequest
from medcli.settings.training import MaskPlace
from medcli.settings.values import check_as

# Dimension key: B batch, N tokens of a site, K tokens kept.

Range = tuple[float, float]
"""Range of the share of dropped tokens, which is drawn once per step for the whole batch."""


DEEP_FIRST_STAGE = MID_BLOCK + 1
"""Depth of the first stage from which EDT also masks in its middle, which the reference does for XL alone."""
REFERENCE_RATIOS: dict[MaskPlace, tuple[Range, ...]] = {"down": ((0.4, 0.5), (0.1, 0.2)), "input": ((0.3, 0.5),)}
"""Ranges of the references: EDT's first down-sampler and the others; MDTv2's input."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Masking:
    """Settings of masked training: sites and shares of dropped tokens.

    Raises:
        ConfigError: If a value is unknown, or a range is not 0 <= low <= high < 1.
    """

    where: MaskPlace = "down"
    """`down`: inside EDT's down-samplers; blocks before the first one see all tokens. `input`: before the first block,
    as in MDT."""
    ratios: tuple[Range, ...] = ()
    """Ranges of the dropped share: of the down-samplers in order, the last one also for those that follow; of the
    input, one. Empty: the references'."""
    mid: Range | None = (0.15, 0.25)
    """With `down`: range before the fifth block of the first stage, if it has as many blocks; masked tokens become
    their position embeddings."""

    def __post_init__(self) -> None:
        check_as(FinetuneRequest, mask=self.where)
        if self.where == "input" and len(self.ratios) > 1:
            raise ConfigError(f"--mask input takes one range of ratios, got {len(self.ratios)}", hint="try 0.3-0.5")
        for low, high in (*self.ratios, *([self.mid] if self.mid else [])):
            if not 0 <= low <= high < 1:
                raise ConfigError(
                    f"mask ratio {low:g}-{high:g}: expected 0 <= LOW <= HIGH < 1", hint="EDT's first is 0.4-0.5"
                )

    @property
    def ranges(self) -> tuple[Range, ...]:
        """Ranges, the references' if none are given."""
        return self.ratios or REFERENCE_RATIOS[self.where]


def mask_sites(config: ModelConfig, masking: Masking) -> dict[str, tuple[int, Range]]:
    """Return the number of tokens and the range of dropped shares of every site of a network.

    Raises:
        ConfigError: If the family does not support this masking, or has fewer sites than ranges.
    """
    if config.family not in ("edt", "mdtv2"):
        raise ConfigError(f"masked training is for edt and mdtv2, not for {config.family}", hint="leave --mask out")
    ranges, all_stages = masking.ranges, stages(config)
    if masking.where == "input":
        return {INPUT_SITE: (config.num_tokens, ranges[0])}
    if config.family == "mdtv2":
        raise ConfigError("mdtv2 has no down-samplers", hint="use --mask input")
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
    """Draw the masks of some rows of a step's batch.

    Args:
        masking: Sites and ranges.
        step: Optimizer step; all its processes and micro-batches draw the same shares.
        position_B: (B,) int64 positions of the rows in the run's sequence of draws.

    Returns:
        Masks by site, as `DiffusionTransformer.forward` takes them.
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
