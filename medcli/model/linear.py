"""Products with weights through the fastest kernel at hand; the function is that of `torch.nn.Linear`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcli.runtime.precision import multiplies_bfloat16

GELU_SLOPE, GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715
"""tanh's argument is SLOPE (x + CUBIC x^3). Source: arXiv 1606.08415."""
CACHED_ELEMENTS = 1 << 16
"""A processor keeps so many floats at hand from one pass over them to the next."""


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
    hidden_BND = F.linear(x_BNE, weight_DE, bias_D)
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not hidden_BND.is_cpu:
        return F.gelu(hidden_BND, approximate="tanh")
    return _gelu_in_place(hidden_BND)


def _gelu_in_place(x_BND: Tensor) -> Tensor:
    """The tanh-approximated GELU of a contiguous tensor by exponentials, of which torch is quicker than of tanh.

    0.5 x (1 + tanh(u)) = x / (1 + exp(-2 u)).
    """
    cubic, linear = 2 * GELU_SLOPE * GELU_CUBIC, torch.tensor(2 * GELU_SLOPE, dtype=x_BND.dtype)
    for part in x_BND.view(-1).split(CACHED_ELEMENTS * torch.get_num_threads()):
        part.mul_(torch.addcmul(linear, part, part, value=cubic).mul_(part).sigmoid_())
    return x_BND


class Linear(nn.Linear):
    """`torch.nn.Linear` with a bias, by `linear`."""

    def forward(self, x_BNE: Tensor) -> Tensor:
        """(B, N, E) features as (B, N, D)."""
        return linear(x_BNE, self.weight, self.bias)


def _onednn_serves(x_BNE: Tensor, weight_DE: Tensor) -> bool:
    """Whether oneDNN's own kernel, the one compiled graphs use, can take the product and is the quicker one.

    `F.linear` multiplies float32 with MKL. With AVX-512 oneDNN is quicker by a tenth on AMD processors and its GELU
    costs nothing; with AVX2 it is slower by a tenth. The kernel has no gradient and no automatic casts.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not x_BNE.is_cpu or torch.is_autocast_enabled("cpu"):
        return False
    if x_BNE.dtype != weight_DE.dtype or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # not part of torch's public surface
        return False
    if x_BNE.dtype == torch.bfloat16:
        return multiplies_bfloat16(x_BNE.device)
    return x_BNE.dtype == torch.float32 and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
