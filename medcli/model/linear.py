"""Products with weights through the fastest kernel at hand; the function is that of `torch.nn.Linear`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def linear(x_BNE: Tensor, weight_DE: Tensor, bias_D: Tensor) -> Tensor:
    """(B, N, E) features as (B, N, D)."""
    if _onednn_serves(x_BNE, weight_DE):
        return torch.ops.mkldnn._linear_pointwise(x_BNE, weight_DE, bias_D, "none", [], "")
    return F.linear(x_BNE, weight_DE, bias_D)


def linear_gelu(x_BNE: Tensor, weight_DE: Tensor, bias_D: Tensor) -> Tensor:
    """(B, N, E) features as (B, N, D), then the tanh-approximated GELU."""
    if _onednn_serves(x_BNE, weight_DE):
        # The GELU is applied while the product's tiles are in cache: one pass over memory less in each direction.
        return torch.ops.mkldnn._linear_pointwise(x_BNE, weight_DE, bias_D, "gelu", [], "tanh")
    return F.gelu(F.linear(x_BNE, weight_DE, bias_D), approximate="tanh")


class Linear(nn.Linear):
    """`torch.nn.Linear` with a bias, by `linear`."""

    def forward(self, x_BNE: Tensor) -> Tensor:
        """(B, N, E) features as (B, N, D)."""
        return linear(x_BNE, self.weight, self.bias)


def _onednn_serves(x_BNE: Tensor, weight_DE: Tensor) -> bool:
    """Whether oneDNN's own kernel, the one compiled graphs use, can take the product.

    `F.linear` multiplies float32 with MKL, which on AMD processors leaves a tenth of the speed. The kernel has no
    gradient and no automatic casts.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not x_BNE.is_cpu or torch.is_autocast_enabled("cpu"):
        return False
    if x_BNE.dtype != weight_DE.dtype or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # not part of torch's public surface
        return False
    if x_BNE.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return x_BNE.dtype == torch.float32
