"""Linear layers by the fastest available kernel, and the modulated norm before them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcli.runtime.precision import multiplies_bfloat16

GELU_SLOPE, GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715
"""The argument of tanh is SLOPE (x + CUBIC x^3). Source: arXiv 1606.08415."""
CACHED_ELEMENTS = 1 << 16
"""Floats that stay in the processor's cache between two passes."""


def linear(x_BNE: Tensor, weight_DE: Tensor, bias_D: Tensor) -> Tensor:
    """Apply a linear layer to (B, N, E) features."""
    if _onednn_serves(x_BNE, weight_DE):
        return _in_onednn(x_BNE, weight_DE, bias_D, "none", "")
    return F.linear(x_BNE, weight_DE, bias_D)


def linear_gelu(x_BNE: Tensor, weight_DE: Tensor, bias_D: Tensor) -> Tensor:
    """Apply a linear layer and the tanh-approximated GELU to (B, N, E) features."""
    if _onednn_serves(x_BNE, weight_DE):
        # The GELU is fused: it is applied while the product's tiles are in cache.
        return _in_onednn(x_BNE, weight_DE, bias_D, "gelu", "tanh")
    if _has_gelu_epilogue(x_BNE, weight_DE):
        hidden_RD = torch._addmm_activation(bias_D, x_BNE.flatten(0, -2), weight_DE.T, use_gelu=True)
        return hidden_RD.unflatten(0, x_BNE.shape[:-1])
    hidden_BND = F.linear(x_BNE, weight_DE, bias_D)
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not hidden_BND.is_cpu:
        return F.gelu(hidden_BND, approximate="tanh")
    return _gelu_in_place(hidden_BND)


def _has_gelu_epilogue(x_BNE: Tensor, weight_DE: Tensor) -> bool:
    """Return whether cuBLAS applies the GELU to the product's tiles: its tanh form, without a gradient or casts."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not x_BNE.is_cuda:
        return False
    return x_BNE.dtype == weight_DE.dtype and x_BNE.dtype in (torch.bfloat16, torch.float16)


def _gelu_in_place(x_BND: Tensor) -> Tensor:
    """Apply the tanh-approximated GELU in place to a contiguous tensor, by exponentials, which are faster than tanh.

    0.5 x (1 + tanh(u)) = x / (1 + exp(-2 u)).
    """
    cubic, linear = 2 * GELU_SLOPE * GELU_CUBIC, torch.tensor(2 * GELU_SLOPE, dtype=x_BND.dtype)
    for part in x_BND.view(-1).split(CACHED_ELEMENTS * torch.get_num_threads()):
        part.mul_(torch.addcmul(linear, part, part, value=cubic).mul_(part).sigmoid_())
    return x_BND


class Linear(nn.Linear):
    """`torch.nn.Linear` with a bias, computed by `linear`."""

    def forward(self, x_BNE: Tensor) -> Tensor:
        """Map (B, N, E) features to (B, N, D)."""
        return linear(x_BNE, self.weight, self.bias)


def _in_onednn(x_BNE: Tensor, weight_DE: Tensor, bias_D: Tensor, then: str, form: str) -> Tensor:
    """Apply a linear layer and an activation by oneDNN's kernel."""
    if torch.compiler.is_compiling():
        return _opaque_onednn(x_BNE, weight_DE, bias_D, then, form)
    return torch.ops.mkldnn._linear_pointwise(x_BNE, weight_DE, bias_D, then, [], form)


@torch.library.custom_op("medcli::onednn_linear", mutates_args=())
def _opaque_onednn(x_BNE: Tensor, weight_DE: Tensor, bias_D: Tensor, then: str, form: str) -> Tensor:
    """Apply oneDNN's kernel as an operator that is opaque to the compiler.

    By itself the compiler uses the kernel only for constant weights, so for one graph per block, which takes minutes.
    This way blocks share one graph.
    """
    return torch.ops.mkldnn._linear_pointwise(x_BNE, weight_DE, bias_D, then, [], form)


@_opaque_onednn.register_fake
def _(x_BNE: Tensor, weight_DE: Tensor, bias_D: Tensor, then: str, form: str) -> Tensor:
    return x_BNE.new_empty(*x_BNE.shape[:-1], weight_DE.shape[0])


def _onednn_serves(x_BNE: Tensor, weight_DE: Tensor) -> bool:
    """Return whether oneDNN's kernel, which has no gradient and no casts, supports the product and is faster."""
    if torch.is_grad_enabled() or not x_BNE.is_cpu or torch.is_autocast_enabled("cpu"):
        return False
    return x_BNE.dtype == weight_DE.dtype and _is_quicker_in_onednn(x_BNE.dtype)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _is_quicker_in_onednn(dtype: torch.dtype) -> bool:
    """Return whether oneDNN is the fastest on this machine for a dtype; evaluated once per compiled graph.

    `F.linear` multiplies float32 with MKL. On AMD processors with AVX-512 oneDNN takes half the time, and its GELU
    almost none; with AVX2 it is a tenth slower (docs/performance.md).
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


def modulated_norm(x_BND: Tensor, shift_BD: Tensor | None, scale_BD: Tensor, norm: nn.Module | None = None) -> Tensor:
    """Apply a norm, then a per-image scale and, where there is one, shift, in the dtype of these.

    Args:
        x_BND: Tokens.
        shift_BD: Shift; None: none.
        scale_BD: Scale, to which 1 is added.
        norm: The norm; None: LayerNorm without parameters.
    """
    normed_BND = F.layer_norm(x_BND, x_BND.shape[-1:], eps=LAYER_NORM_EPS) if norm is None else norm(x_BND)
    if shift_BD is None:
        return (normed_BND * (1 + scale_BD[:, None])).to(scale_BD.dtype)
    return add_product(shift_BD[:, None], normed_BND, 1 + scale_BD[:, None]).to(shift_BD.dtype)


def add_product(x_BND: Tensor, factor_BND: Tensor, other_BND: Tensor) -> Tensor:
    """Return x + factor * other, fused into one pass if no gradient is needed.

    Training keeps two passes, which round differently, so that its runs stay repeatable.
    """
    if torch.is_grad_enabled():
        return factor_BND * other_BND + x_BND
    return torch.addcmul(x_BND, factor_BND, other_BND)


def product(layer: nn.Linear, x_BND: Tensor) -> Tensor:
    """Apply a linear layer in the dtype of its parameters, or of autocast; return the dtype of the tokens."""
    out_BND: Tensor = layer(x_BND.to(layer.weight.dtype))
    return out_BND.to(x_BND.dtype)
