"""EDT: tokens are down-sampled between stages, then up-sampled with long skips.

The blocks are those of DiT. Source: EDT (arXiv 2410.23788); edt-facts 1.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from medcli.model.block import DOWN_SITE, INPUT_SITE, MID_SITE, RunBlocks, TokenMasks
from medcli.model.layout import StageGeometry, stages
from medcli.model.linear import modulated_norm, product

if TYPE_CHECKING:
    from medcli.config import ModelConfig
    from medcli.model.backbone import DiffusionTransformer

# Dimension key: B batch, N tokens, S tokens along one side, D width, C width of the condition, P parts (four) of a
# 2 x 2 neighbourhood, Q tokens after down-sampling (N / 4), E width after it.

MID_BLOCK = 4
FIRST_STAGE_SITES = {0: INPUT_SITE, MID_BLOCK: MID_SITE}
"""Blocks of the first stage before which masked training may replace tokens by their positions. The second is the
reference's (edt-facts 3); the first is the equivalent of MDT's masking for a grid that can't lose tokens."""


class TokenEnhancement(nn.Module):
    """Common part of down-sampling and long skips: a norm modulated by the condition, and added positions.

    Args:
        width: Width of the normed tokens.
        out: Stage of the output tokens.
        condition_size: Width of the condition.
    """

    def __init__(self, width: int, out: StageGeometry, condition_size: int) -> None:
        super().__init__()
        self.tokens_side = out.tokens_side
        self.pos_embed = nn.Parameter(torch.empty(1, out.num_tokens, out.width), requires_grad=False)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(condition_size, 2 * width))

    def enhance(self, x_BND: Tensor, condition_BC: Tensor) -> Tensor:
        """Normalise, scale and shift tokens."""
        shift_BD, scale_BD = self.adaLN_modulation(condition_BC).to(x_BND.dtype).chunk(2, dim=1)
        return modulated_norm(x_BND, shift_BD, scale_BD)


class DownSample(TokenEnhancement):
    """Join each 2 x 2 neighbourhood into one token. Source: edt-facts 1.3."""

    def __init__(self, width: int, out: StageGeometry, condition_size: int) -> None:
        super().__init__(4 * width, out, condition_size)
        self.reduction = nn.Linear(4 * width, out.width, bias=False)

    def forward(self, x_BND: Tensor, condition_BC: Tensor, keep_BN: Tensor | None = None) -> Tensor:
        """Map (B, N, D) tokens to (B, N / 4, E).

        Args:
            x_BND: Tokens of a square grid with an even side.
            condition_BC: The condition.
            keep_BN: In masked training, False where a token's values are set to zero.
        """
        x_BQD = self.enhance(neighbourhoods(x_BND, self.tokens_side).flatten(2), condition_BC)
        if keep_BN is not None:
            keep_BQP1 = neighbourhoods(keep_BN[..., None], self.tokens_side)
            x_BQD = (x_BQD.unflatten(2, (4, -1)) * keep_BQP1).flatten(2)
        return product(self.reduction, x_BQD) + self.pos_embed


class UpSample(nn.Module):
    """Split each token into a 2 x 2 neighbourhood. Source: edt-facts 1.4."""

    def __init__(self, here: StageGeometry, out_width: int) -> None:
        super().__init__()
        self.tokens_side = here.tokens_side
        self.expand = nn.Linear(here.width, 4 * out_width, bias=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Map (B, N, D) tokens to (B, 4 N, E); features are (row, column, channel), unlike in `DownSample`."""
        parts = product(self.expand, x_BND).unflatten(2, (2, 2, -1)).unflatten(1, (self.tokens_side, self.tokens_side))
        return parts.transpose(2, 3).flatten(1, 4)


class LongSkip(TokenEnhancement):
    """Concatenate up-sampled tokens with the input of the mirrored stage. Source: edt-facts 1.5."""

    def __init__(self, here: StageGeometry, condition_size: int) -> None:
        super().__init__(2 * here.width, here, condition_size)
        self.cat = nn.Linear(2 * here.width, here.width)

    def forward(self, x_BND: Tensor, skip_BND: Tensor, condition_BC: Tensor) -> Tensor:
        """Map two (B, N, D) tensors to one."""
        joined_BND = self.enhance(torch.cat([x_BND, skip_BND], dim=2), condition_BC)
        return product(self.cat, joined_BND) + self.pos_embed


def neighbourhoods(x_BND: Tensor, side: int) -> Tensor:
    """Group tokens by `side` x `side` neighbourhoods: (B, N / 4, 4, D), the row within one fastest."""
    grid = x_BND.unflatten(1, (side, 2, side, 2))  # row, row within, column, column within
    return grid.permute(0, 1, 3, 4, 2, 5).flatten(3, 4).flatten(1, 2)


def edt_parts(config: ModelConfig) -> dict[str, nn.ModuleList]:
    """Create the modules between the stages, by their names in the state dict."""
    all_stages = stages(config)
    middle, condition = len(all_stages) // 2, config.hidden_size
    down, up = pairwise(all_stages[: middle + 1]), pairwise(all_stages[middle:])
    return {
        "down_blocks": nn.ModuleList(DownSample(here.width, after, condition) for here, after in down),
        "up_blocks": nn.ModuleList(UpSample(here, after.width) for here, after in up),
        "concat_blocks": nn.ModuleList(LongSkip(stage, condition) for stage in all_stages[middle + 1 :]),
    }


def edt_route(
    model: DiffusionTransformer, x_BND: Tensor, condition_BC: Tensor, run: RunBlocks, masks: TokenMasks
) -> Tensor:
    """Run all stages.

    Args:
        model: An EDT.
        x_BND: Embedded tokens.
        condition_BC: The condition.
        run: Runs a block under the condition.
        masks: In masked training, masks by site; empty otherwise.

    Source: edt-facts 1.2. Skips are the inputs of stages, so they are never masked.
    """
    depths, waiting = model.config.stage_depths, iter(model.blocks)
    middle, skips = len(depths) // 2, list[Tensor]()
    for stage, depth in enumerate(depths):
        if stage < middle:
            skips.append(x_BND)
        elif stage > middle:
            place = stage - middle - 1
            x_BND = model.concat_blocks[place](model.up_blocks[place](x_BND), skips.pop(), condition_BC)
        for place in range(depth):
            site = FIRST_STAGE_SITES.get(place, "") if stage == 0 else ""
            if site in masks:
                x_BND = torch.where(masks[site][..., None], x_BND, model.pos_embed)
            x_BND = run(next(waiting), x_BND)
        if stage < middle:
            x_BND = model.down_blocks[stage](x_BND, condition_BC, masks.get(DOWN_SITE.format(stage)))
    return x_BND
