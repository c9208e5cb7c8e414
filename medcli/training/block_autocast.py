"""Autocast, compilation and activation checkpointing of the blocks during training.

Autocast is applied to each block alone, so embeddings, conditioning, the residual stream and the final projection stay
float32. Inside the blocks LayerNorm and softmax stay float32 by torch's autocast rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from medcli.model.block import Block
from medcli.runtime.compilation import compiled_function

Call = Callable[..., Tensor]


@contextmanager
def called_with(
    blocks: Iterable[Block],
    *,
    device: torch.device,
    dtype: torch.dtype,
    is_checkpointed: bool = False,
    is_compiled: bool = False,
) -> Iterator[None]:
    """Wrap the calls of blocks inside the `with` block; names and weights are unchanged.

    Args:
        blocks: Blocks to wrap.
        device: Their device.
        dtype: Autocast data type; float32: no autocast.
        is_checkpointed: Recompute blocks in the backward pass (activation checkpointing).
        is_compiled: Run blocks with `torch.compile`: one graph for each mediator count and kind of block, which takes
            a fraction of the time of one for all blocks in a row.
    """
    changed: list[Block] = []
    calls = _CompiledCalls()
    try:
        for block in blocks:
            call = partial(calls, block) if is_compiled else block.forward
            block.forward = _wrapped(call, device, dtype, is_checkpointed)  # type: ignore[method-assign]
            changed.append(block)
        yield
    finally:
        for block in changed:
            del block.forward


class _CompiledCalls:
    """Compiled forms of `Block.forward`, one for each mediator count and kind of block, each for up to eight shapes."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], Call] = {}

    def __call__(
        self, block: Block, x_BND: Tensor, condition_BD: Tensor, count: int, **joined: Tensor | None
    ) -> Tensor:
        shapes = tuple(parameter.shape for parameter in block.parameters())
        given = tuple(name for name, value in joined.items() if value is not None)
        key = (shapes, count, given)
        if key not in self._made:
            self._made[key] = compiled_function(Block.forward)
        return self._made[key](block, x_BND, condition_BD, count, **joined)


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
