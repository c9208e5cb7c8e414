"""Which tokens a masked training pass leaves out, and where. Inference passes none. Source: edt-facts 3 and 5."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor

TokenMasks = Mapping[str, Tensor]
"""By site. EDT: (B, N) bool, True where a token is kept. MDTv2: (B, K) int64, numbers of the tokens that are kept."""

NO_MASKS: TokenMasks = MappingProxyType({})

DOWN_SITE = "down{}"
"""Inside a down-sampler of an EDT, numbered from 0."""
MID_SITE = "mid"
"""Within the first stage of an EDT."""
INPUT_SITE = "input"
"""Before the first block: an MDTv2's sequence loses the tokens, in an EDT they become their positions."""


def rows_of_masks(masks: TokenMasks, rows: slice) -> TokenMasks:
    """The masks of some images of a batch."""
    return {site: mask[rows] for site, mask in masks.items()} if masks else NO_MASKS


RunBlocks = Callable[..., Tensor]
"""Runs a block on tokens, with what else it joins by name; condition and mediator count are bound."""
