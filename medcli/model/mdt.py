"""MDTv2: an encoder whose second half has skips from the first, and a decoder with skips from the input.

The blocks are those of DiT. Source: MDTv2 (arXiv 2303.14389); edt-facts 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from medcli.model.block import INPUT_SITE, RunBlocks, TokenMasks
from medcli.model.layout import encoder_half

if TYPE_CHECKING:
    from medcli.model.backbone import DiffusionTransformer

# Dimension key: B batch, N tokens, K tokens kept, D width, C width of the condition.


def mdt_parts(num_tokens: int, width: int) -> dict[str, nn.Parameter]:
    """Create the parameters beside the blocks: the mask token and the decoder's learned positions."""
    return {
        "mask_token": nn.Parameter(torch.empty(1, 1, width)),
        "decoder_pos_embed": nn.Parameter(torch.empty(1, num_tokens, width)),
    }


def mdt_route(
    model: DiffusionTransformer, x_BND: Tensor, condition_BC: Tensor, run: RunBlocks, masks: TokenMasks
) -> Tensor:
    """Run encoder and decoder.

    Args:
        model: An MDTv2.
        x_BND: Embedded tokens; the decoder's blocks get all of them, masked or not.
        condition_BC: The condition.
        run: Runs a block under the condition.
        masks: In masked training, the tokens of the encoder; empty otherwise.
    """
    half, blocks = encoder_half(model.config), model.ordered_blocks()
    kept_BK = masks.get(INPUT_SITE)
    embedded_BND, skips = x_BND, list[Tensor]()
    if kept_BK is not None:
        x_BND = x_BND.take_along_dim(kept_BK[..., None], dim=1)
    for block in blocks[:half]:
        x_BND = run(block, x_BND, kept_BK=kept_BK)
        skips.append(x_BND)
    for block in blocks[half : 2 * half]:
        x_BND = run(block, x_BND, skip_BND=skips.pop(), kept_BK=kept_BK)
    x_BND = interpolated(model, x_BND, run, kept_BK)
    for block in blocks[2 * half :]:
        x_BND = run(block, x_BND, skip_BND=embedded_BND)
    return x_BND


def interpolated(model: DiffusionTransformer, x_BKD: Tensor, run: RunBlocks, kept_BK: Tensor | None) -> Tensor:
    """Add the decoder's positions; restore the full sequence by mask tokens that the side block replaces."""
    if kept_BK is None:
        return x_BKD + model.decoder_pos_embed
    width = x_BKD.shape[-1]
    masked_BND = model.mask_token.expand(len(x_BKD), model.config.num_tokens, width)
    place_BKD = kept_BK[..., None].expand(-1, -1, width)
    whole_BND = masked_BND.scatter(1, place_BKD, x_BKD) + model.decoder_pos_embed
    filled_BND = run(model.sideblocks[0], whole_BND)
    # Kept tokens skip the side block.
    return filled_BND.scatter(1, place_BKD, whole_BND.gather(1, place_BKD))
