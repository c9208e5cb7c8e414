"""Tensors that are spread over processes, and plain ones, handled alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def local(value: Tensor) -> Tensor:
    """The part of a tensor that this process holds, sharing its memory; a plain tensor is its own."""
    return value.to_local() if _is_spread(value) else value


def whole(value: Tensor) -> Tensor:
    """All of a tensor. Where it is spread, every process must ask at once."""
    return value.full_tensor() if _is_spread(value) else value


@torch.no_grad()
def write(target: Tensor, value: Tensor) -> None:
    """Fill a tensor, spread or not, with a whole one.

    Args:
        target: Changed in place.
        value: (same shape) The first process's is what counts.
    """
    if _is_spread(target):
        from torch.distributed.tensor import distribute_tensor  # some builds of torch have no such package

        value = distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
    target.copy_(value)


def _is_spread(value: Tensor) -> TypeGuard[DTensor]:
    return hasattr(value, "full_tensor")
