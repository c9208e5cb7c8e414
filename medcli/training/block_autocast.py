"""Autocast and activation checkpointing of the blocks during training.

Autocast is applied to each block alone, so embeddings, conditioning, the residual stream and the final projection stay
float32. Inside the blocks LayerNorm and softmax stay float32 by torch's autocast rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Call = Callable[..., Tensor]


@contextmanager
def called_with(
    blocks: Iterable[nn.Module], *, device: torch.device, dtype: torch.dtype, is_checkpointed: bool = False
) -> Iterator[None]:
    """Wrap the calls of blocks inside the `with` block; names and weights are unchanged.

    Args:
        blocks: Blocks to wrap.
        device: Their device.
        dtype: Autocast data type; float32: no autocast.
        is_checkpointed: Recompute blocks in the backward pass (activation checkpointing).
    """
    changed: list[nn.Module] = []
    try:
        for block in blocks:
            block.forward = _wrapped(block.forward, device, dtype, is_checkpointed)
            changed.append(block)
        yield
    finally:
        for block in changed:
            del block.forward


def _wrapped(call: Call, device: torch.device, dtype: torch.dtype, is_checkpointed: bool) -> Call:
    def cast(*inputs: Tensor | int, **joined: Tensor | None) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return call(*inputs, **joined)

    def recompute(*inputs: Tensor | int, **joined: Tensor | None) -> Tensor:
        # Blocks draw no random numbers, so no generator state is saved.
        again = partial(cast, **joined)
        output: Tensor = checkpoint(again, *inputs, use_reentrant=False, preserve_rng_state=False)
        return output

    return recompute if is_checkpointed else cast
