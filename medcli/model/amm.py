"""The attention modulation matrix: attention of trained models is weighted by distance after the softmax.

It needs no training, is not part of the weights, and adds a little work. Rows are not renormalised.
Source: EDT (arXiv 2410.23788) section 3.2; edt-facts 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medcli.config import ModelConfig
from medcli.errors import ConfigError, require_complete
from medcli.model.layout import blocks
from medcli.settings.modulation import AmmForm

if TYPE_CHECKING:
    from medcli.model.backbone import DiffusionTransformer

# Dimension key: N tokens of a square grid, row by row.

FORMS: Mapping[str, Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]] = MappingProxyType(
    {"exp": lambda cosine: np.exp(cosine) / 2, "cos": lambda cosine: 1.3 * cosine}
)
require_complete("AMM form", FORMS, get_args(AmmForm))
SMALLEST_SIDE = 3
"""Smallest grid side, in tokens, for which the matrix is defined."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Amm:
    """Settings of attention modulation.

    Raises:
        ConfigError: If a value is out of range.
    """

    blocks: tuple[int, ...]
    """Numbers of the modulated blocks, rising."""
    radius: float | None = None
    """Distance in tokens beyond which attention is 0; None: sqrt((side - 1)^2 + 4) of each block's grid."""
    form: AmmForm = "exp"
    """`exp`: e^cos(f d) / 2, the paper's; `cos`: 1.3 cos(f d), the reference's for 512 px."""

    def __post_init__(self) -> None:
        is_listed = bool(self.blocks) and all(type(block) is int and block >= 0 for block in self.blocks)
        if not is_listed or list(self.blocks) != sorted(set(self.blocks)):
            raise ConfigError(f"AMM blocks {list(self.blocks)} must be rising block numbers", hint="try 7,10")
        if self.radius is not None and not 0 <= self.radius < math.inf:
            raise ConfigError(
                f"the AMM radius must be 0 or more, got {self.radius}", hint="leave it out for the paper's"
            )
        if self.form not in get_args(AmmForm):
            raise ConfigError(f"unknown AMM form {self.form!r}", hint=f"choose from {', '.join(get_args(AmmForm))}")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; a radius of None is `auto`."""
        return {
            "blocks": list(self.blocks),
            "radius": "auto" if self.radius is None else self.radius,
            "form": self.form,
        }


def modulation_matrix(side: int, radius: float | None = None, form: AmmForm = "exp") -> npt.NDArray[np.float64]:
    """Compute the factors of attention between the tokens of a grid.

    Args:
        side: Tokens along one side.
        radius: See `Amm`.
        form: See `Amm`.

    Returns:
        (N, N) float64, the same for all heads and images; 0 beyond the radius.

    Raises:
        ConfigError: If the grid is too small.

    Source: edt-facts 2.1. The period is four times the grid's diagonal.
    """
    if side < SMALLEST_SIDE:
        raise ConfigError(f"AMM needs a grid of at least {SMALLEST_SIDE} tokens a side, this one has {side}")
    row_N, column_N = np.divmod(np.arange(side**2), side)
    squared_NN = (row_N[:, None] - row_N) ** 2 + (column_N[:, None] - column_N) ** 2
    cosine_NN = np.cos(np.pi / (2 * math.sqrt(2) * (side - 1)) * np.sqrt(squared_NN.astype(np.float64)))
    weight_NN = FORMS[form](cosine_NN)
    limit = (side - 1) ** 2 + 4 if radius is None else radius**2
    # Squared distances are integers: one equal to the squared radius is kept despite rounding.
    return np.where(squared_NN <= limit + 1e-9, weight_NN, 0.0)


def check_amm(amm: Amm, config: ModelConfig) -> None:
    """Check modulation against a network.

    Raises:
        ConfigError: If a block does not exist, has mediators, or has too small a grid.
    """
    places = blocks(config)
    if amm.blocks[-1] >= config.depth:
        raise ConfigError(
            f"AMM block {amm.blocks[-1]} does not exist: this model has blocks 0..{config.depth - 1}",
            hint="name other blocks with --amm-blocks",
        )
    if both := sorted(set(amm.blocks) & set(config.mediator_layers)):
        raise ConfigError(
            f"block {both[0]} has mediators, so its attention can't be modulated too",
            hint="name other blocks with --amm-blocks, or convert with --layers that leave this one out",
        )
    for block in amm.blocks:
        if places[block].tokens_side < SMALLEST_SIDE:
            raise ConfigError(
                f"AMM needs a grid of at least {SMALLEST_SIDE} tokens a side, "
                f"that of block {block} has {places[block].tokens_side}",
                hint="name other blocks with --amm-blocks",
            )


def attach_amm(model: DiffusionTransformer, amm: Amm) -> None:
    """Attach modulation to a loaded model; its weights and state dict do not change.

    Raises:
        ConfigError: If modulation does not fit the model.
    """
    check_amm(amm, model.config)
    places, layers = blocks(model.config), model.ordered_blocks()
    matrices: dict[int, Tensor] = {}  # blocks on one grid share theirs
    for block in amm.blocks:
        side = places[block].tokens_side
        if side not in matrices:
            matrices[side] = torch.from_numpy(modulation_matrix(side, amm.radius, amm.form)).to(model.pos_embed)
        layers[block].attn.modulation_NN = matrices[side]


def amm_multiplications(amm: Amm, config: ModelConfig) -> int:
    """Return the multiplications added to a forward pass of one image: H N^2 per block. Source: edt-facts 2.4."""
    places = blocks(config)
    return sum(places[block].num_heads * places[block].num_tokens ** 2 for block in amm.blocks)
