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
        return _in_onednn(x_BNE, weight_DE, bias_D, "none", "")
    return F.linear(x_BNE, weight_DE, bias_D)


def linear_gelu(x_BNE: Tensor, weight_DE: Tensor, bias_D: Tensor) -> Tensor:
    """(B, N, E) features as (B, N, D), then the tanh-approximated GELU."""
    if _onednn_serves(x_BNE, weight_DE):
        # The GELU is applied while the product's tiles are in cache: one pass over memory less in each direction.
        return _in_onednn(x_BNE, weight_DE, bias_D, "gelu", "tanh")
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


def _in_onednn(x_BNE: Tensor, weight_DE: Tensor, bias_D: Tensor, then: str, form: str) -> Tensor:
    """A linear layer and what follows it, in oneDNN's own kernel."""
    if torch.compiler.is_compiling():
        return _opaque_onednn(x_BNE, weight_DE, bias_D, then, form)
    return torch.ops.mkldnn._linear_pointwise(x_BNE, weight_DE, bias_D, then, [], form)


@torch.library.custom_op("medcli::onednn_linear", mutates_args=())
def _opaque_onednn(x_BNE: Tensor, weight_DE: Tensor, bias_D: Tensor, then: str, form: str) -> Tensor:
    """The same as one operation that a compiled graph calls as it is.

    Of its own accord the compiler takes that kernel for constant weights alone, so for a graph a block: minutes. This
    way blocks share a graph, and the kernel.
    """
    return torch.ops.mkldnn._linear_pointwise(x_BNE, weight_DE, bias_D, then, [], form)


@_opaque_onednn.register_fake
def _(x_BNE: Tensor, weight_DE: Tensor, bias_D: Tensor, then: str, form: str) -> Tensor:
    return x_BNE.new_empty(*x_BNE.shape[:-1], weight_DE.shape[0])


def _onednn_serves(x_BNE: Tensor, weight_DE: Tensor) -> bool:
    """Whether oneDNN's own kernel can take the product and is the quicker one. It has no gradient and no casts."""
    if torch.is_grad_enabled() or not x_BNE.is_cpu or torch.is_autocast_enabled("cpu"):
        return False
    return x_BNE.dtype == weight_DE.dtype and _is_quicker_in_onednn(x_BNE.dtype)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _is_quicker_in_onednn(dtype: torch.dtype) -> bool:
    """Whether this machine multiplies numbers of a type best in oneDNN. Compiled graphs ask once, while they are made.

    `F.linear` multiplies float32 with MKL. On AMD processors with AVX-512 oneDNN takes half the time, and its GELU
    next to none; with AVX2 it is slower by a tenth (docs/performance.md).
    """
    if not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # not part of torch's public surface
        return False
    if dtype == torch.bfloat16:
        return multiplies_bfloat16(torch.device("cpu"))
    return dtype == torch.float32 and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


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
