"""Choice between the Triton kernels of mediator attention and plain torch, by measurement."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from medcli.kernels.available import has_kernels
from medcli.model.attention import AttentionParts

if TYPE_CHECKING:
    from medcli.model.mediator import MediatorAttention

TIMED_CALLS = 10
LEAST_GAIN = 1.02
"""A kernel that gains less is left out: timing noise must not decide."""


def kernels_win(module: MediatorAttention, x_BND: Tensor, num_mediators: int, is_absorbed: bool) -> bool:
    """Return whether the Triton kernels serve a call and are faster here; measured once for each shape."""
    if not x_BND.is_cuda or torch.is_grad_enabled() or torch.compiler.is_compiling() or module.rotary is not None:
        return False
    if not has_kernels(x_BND.device.type):
        return False
    sizes = (module.num_heads, module.tokens_side, num_mediators, module.q_norm is not None)
    return _measured(x_BND.shape, x_BND.dtype, x_BND.device, *sizes, is_absorbed)


@functools.cache
def _measured(
    shape: torch.Size,
    dtype: torch.dtype,
    device: torch.device,
    num_heads: int,
    side: int,
    num_mediators: int,
    has_norm: bool,
    is_absorbed: bool,
) -> bool:
    """Time both ways on random weights."""
    from medcli.model.mediator import MediatorAttention

    parts = AttentionParts(qk_norm="layer" if has_norm else None)
    with torch.random.fork_rng(devices=[]):
        module = MediatorAttention(shape[-1], num_heads, side, (num_mediators,), parts)
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.02)
    module.to(device, dtype)
    x_BND = torch.ones(shape, dtype=dtype, device=device)
    plain, fused = (
        _milliseconds(lambda mix=mix: mix(x_BND, num_mediators, is_absorbed))  # type: ignore[misc]
        for mix in (module.mix, module.mix_in_kernels)
    )
    return plain > LEAST_GAIN * fused


def _milliseconds(work: Callable[[], Tensor]) -> float:
    """Time work on the current GPU, launches included, after two warm-up calls."""
    for _ in range(2):
        work()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(TIMED_CALLS):
        work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / TIMED_CALLS
