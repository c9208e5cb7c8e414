"""What stands before every product of the network: a norm under the condition."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Dimension key: B batch, N tokens, D width.

LAYER_NORM_EPS = 1e-6


def modulated_norm(x_BND: Tensor, shift_BD: Tensor, scale_BD: Tensor) -> Tensor:
    """LayerNorm without parameters, then a per-image scale and shift; in the type of these."""
    normed_BND = F.layer_norm(x_BND, x_BND.shape[-1:], eps=LAYER_NORM_EPS)
    return add_product(shift_BD[:, None], normed_BND, 1 + scale_BD[:, None]).to(shift_BD.dtype)


def add_product(x_BND: Tensor, factor_BND: Tensor, other_BND: Tensor) -> Tensor:
    """The sum of the first and the product of the others, in one pass over memory where no gradient is wanted.

    Training keeps the two passes: their rounding is another, and its runs must stay repeatable.
    """
    if torch.is_grad_enabled():
        return factor_BND * other_BND + x_BND
    return torch.addcmul(x_BND, factor_BND, other_BND)


def product(layer: nn.Linear, x_BND: Tensor) -> Tensor:
    """A linear layer in the type of its parameters, or of an automatic cast; what comes out has the tokens' type."""
    out_BND: Tensor = layer(x_BND.to(layer.weight.dtype))
    return out_BND.to(x_BND.dtype)
