"""What depends on weights alone, made once and kept between calls while no gradient is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")


class Kept(Generic[Made]):
    """The last result of a function of some weights, good until one of them is replaced or written to.

    Never part of a state dict. Under gradients nothing is kept, so training computes what it would without.
    """

    def __init__(self) -> None:
        self._last: tuple[tuple[object, ...], tuple[Tensor, ...], Made] | None = None

    def of(self, make: Callable[..., Made], *weights: Tensor) -> Made:
        """`make(*weights)`, perhaps from an earlier call; not to be written to."""
        # A compiled graph makes it itself: what is kept can't be looked up without leaving the graph.
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or any(part.is_inference() for part in weights):
            return make(*weights)
        stamp = tuple((part.data_ptr(), part._version, part.dtype, part.device) for part in weights)
        if self._last is None or self._last[0] != stamp:
            # Aliases hold the memory of these weights, so that no other weights can come to lie at its address.
            self._last = stamp, tuple(part.detach() for part in weights), make(*weights)
        return self._last[2]
