"""How much memory a training step will hold at its worst moment, worked out before it runs.

Weights, gradients, moments and averages are counted from shapes. What automatic differentiation keeps of a pass depends
on kernels and number formats, so one block of each kind is really run, on one image and on two, and what it
keeps is counted; the network is the sum of its blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from medcli.model.layout import num_params
from medcli.training.optimizers import NUM_MOMENTS
from medcli.training.step_pieces import (
    FLOAT_BYTES,
    Piece,
    StepShape,
    block_piece,
    ends_piece,
    kinds_of,
    stream_bytes,
)

CPU_WASTE = 0.5
"""Of what a forward pass asks for on a CPU, the share that stays with the process beyond what is kept.

The C library can't reuse all of the aligned memory it gets back: measured with glibc 2.36 (docs/finetuning.md)."""
CPU_WASTE_CHECKPOINTED = 1.7
"""The same in units of one block, where only one is unfolded at a time."""
MAPPED_BYTES = 2**25
"""Pieces from this size on are given back to the system, so that nothing is wasted (`M_MMAP_THRESHOLD` of mallopt)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryEstimate:
    """Bytes a step holds in one process, by what they are for."""

    weights: int
    gradients: int
    moments: int
    """AdamW's."""
    averages: int
    """The moving average of the weights."""
    activations: int
    """Kept between the passes of one micro-batch, at the mediator count that keeps most."""
    waste: int
    """Memory the system's allocator holds and can't use, on a CPU."""
    teacher: int
    """Weights of the network that is distilled."""
    update: int
    """What AdamW needs for a moment beside the gradients, where its operations are not fused into one."""
    is_accumulated: bool
    """Whether gradients of earlier micro-batches are held while activations are."""

    @property
    def total(self) -> int:
        """At the worst moment. A step of one micro-batch makes its gradients while its activations go."""
        lasting = self.weights + self.moments + self.averages + self.teacher
        passing = self.activations + self.waste
        return lasting + max(self.gradients + self.update, passing + self.gradients * self.is_accumulated)

    def to_json(self) -> dict[str, int]:
        """Bytes of each part, and the total."""
        names = ("weights", "gradients", "moments", "averages", "activations", "waste", "teacher", "update", "total")
        return {f"{name}_bytes": getattr(self, name) for name in names}


def estimate_memory(step: StepShape, device: torch.device) -> MemoryEstimate:
    """Work out what a step holds; runs one block of each kind on the device."""
    trained = step.selection.num_trained * FLOAT_BYTES
    footprint = max((footprint_of(step, count, device) for count in step.counts), key=sum)
    return MemoryEstimate(
        weights=num_params(step.config) * FLOAT_BYTES,
        gradients=trained,
        moments=NUM_MOMENTS[step.optimizer] * trained,
        averages=trained,
        activations=footprint.kept,
        waste=footprint.wasted,
        teacher=num_params(step.teacher) * FLOAT_BYTES if step.teacher else 0,
        update=0 if device.type == "cuda" else trained,
        is_accumulated=step.is_accumulated,
    )


class Footprint(NamedTuple):
    """Bytes a micro-batch holds between its passes."""

    kept: int
    wasted: int


def footprint_of(step: StepShape, count: int, device: torch.device) -> Footprint:
    """What a micro-batch holds that goes through one mediator count."""
    unfolded = replace(step, is_checkpointed=False)
    numbers = {kind: number for kind, number in kinds_of(step).items() if kind.has_gradient}
    blocks = {kind: demand_of(block_piece(unfolded, kind, device), step, count) for kind in numbers}
    kept, asked = demand_of(ends_piece(unfolded, device), step, count)
    if step.is_checkpointed:
        # One block at a time is unfolded from its input.
        largest = max(blocks.values(), default=Demand(0, 0))
        inputs = {kind: step.micro_batch_size * stream_bytes(step.config, kind.layer) for kind in numbers}
        kept += sum(inputs[kind] * number for kind, number in numbers.items()) + largest.kept
        wasted = CPU_WASTE_CHECKPOINTED * largest.asked
    else:
        kept += sum(blocks[kind].kept * number for kind, number in numbers.items())
        wasted = CPU_WASTE * (asked + sum(blocks[kind].asked * number for kind, number in numbers.items()))
    is_wasteful = device.type == "cpu" and step.stream_bytes < MAPPED_BYTES
    return Footprint(kept, round(wasted) if is_wasteful else 0)


class Demand(NamedTuple):
    """Bytes of a forward pass."""

    kept: int
    """Held for the backward pass."""
    asked: int
    """All that was asked for, most of it for a moment."""


def demand_of(piece: Piece, step: StepShape, count: int) -> Demand:
    """What a part of the network needs for a micro-batch, from what it needs for one image and for two.

    Casts of weights do not grow with the images, and what does grows evenly.
    """
    weights = list(piece.module.parameters())
    one, two = (_demand(lambda n=number: piece.forward(n, count), weights) for number in (1, 2))  # type: ignore[misc]
    kept, asked = (2 * few - more + (more - few) * step.micro_batch_size for few, more in zip(one, two, strict=True))
    return Demand(kept, asked)


class _Asked(TorchDispatchMode):
    """Adds up the memory operations ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = set(map(_place, _tensors((args, kwargs))))
        self.num_bytes += sum(_num_bytes(tensor) for tensor in _tensors(out) if _place(tensor) not in given)
        return out


def _demand(work: Callable[[], Tensor], known: Iterable[Tensor]) -> Demand:
    """What a computation needs, each piece of memory counted once, that of known tensors not at all."""
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[_place(tensor)] = tensor
        return tensor

    with _Asked() as asked, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = work()
    there = set(map(_place, known))
    num_kept = sum(_num_bytes(tensor) for place, tensor in kept.items() if place not in there)
    del result  # what was kept was reachable until here, so no two pieces had one address
    return Demand(num_kept, asked.num_bytes)


def _place(tensor: Tensor) -> int:
    """Address of a tensor's memory."""
    return tensor.untyped_storage().data_ptr()


def _num_bytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_flatten(values)[0] if isinstance(value, Tensor)]
