"""How the blocks are called while a model trains: with narrow products, and perhaps run again instead of remembered.

The automatic cast is around each block alone, so embeddings, conditioning, what the blocks add to and the final
projection stay float32. LayerNorm and the softmax's sums stay so inside the blocks, by torch's own rules for casts.
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
    """Change how blocks are called inside the `with`; names and weights stay as they are.

    Args:
        blocks: The blocks.
        device: Where they run.
        dtype: Of their products; float32 casts nothing.
        is_checkpointed: Keep a block's input alone for the backward pass, and run the block again in it.
    """
    changed: list[nn.Module] = []
    try:
        for block in blocks:
            block.forward = _changed(block.forward, device, dtype, is_checkpointed)
            changed.append(block)
        yield
    finally:
        for block in changed:
            del block.forward


def _changed(call: Call, device: torch.device, dtype: torch.dtype, is_checkpointed: bool) -> Call:
    def cast(*inputs: Tensor | int, **joined: Tensor | None) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return call(*inputs, **joined)

    def run_again(*inputs: Tensor | int, **joined: Tensor | None) -> Tensor:
        # Blocks draw nothing at random, so no generator's state is kept.
        again = partial(cast, **joined)
        output: Tensor = checkpoint(again, *inputs, use_reentrant=False, preserve_rng_state=False)
        return output

    return run_again if is_checkpointed else cast
