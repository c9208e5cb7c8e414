"""Processes of a run and their communication: one alone, or as many as a launcher started.

accelerate selects this process's device and wraps the network: unchanged for one process, in DDP for several, and
sharded if its own configuration asks for FSDP.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    broadcast,
    broadcast_object_list,
    gather_object,
)
from torch import Tensor, nn

from medcli.errors import ConfigError
from medcli.runtime.processes import this_process

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


Value = TypeVar("Value")

PATIENCE = timedelta(hours=3)
"""How long processes wait for each other: the first one saves states and draws previews alone."""
FSDP_HINT = "use accelerate launch with its defaults, or with --use_fsdp --fsdp_version 2"


def equal_share(global_batch_size: int, num_processes: int) -> int:
    """Images of a batch that each process trains on.

    Raises:
        ConfigError: If the processes' shares would differ.
    """
    share, rest = divmod(global_batch_size, num_processes)
    if rest:
        raise ConfigError(
            f"{num_processes} processes cannot share a batch of {global_batch_size} images equally",
            hint=f"use --global-batch-size {(share or 1) * num_processes}",
        )
    return share


class Distributed:
    """This process among the others of its launch.

    Args:
        has_idle_parameters: Whether some steps leave trained parameters out.

    Raises:
        ConfigError: If accelerate is configured for a way of sharing work that medcli does not know.
    """

    def __init__(self, *, has_idle_parameters: bool) -> None:
        launch = this_process()
        self._accelerator = Accelerator(
            # Left to itself, accelerate takes the processes of a launch without GPUs for so many runs of one process.
            cpu=not launch.is_alone and not _has_gpu(),
            # Number formats are the run's own business: the blocks' products alone are narrow.
            mixed_precision="no",
            kwargs_handlers=[
                DistributedDataParallelKwargs(find_unused_parameters=has_idle_parameters),
                InitProcessGroupKwargs(timeout=PATIENCE),
            ],
        )
        kind = self._accelerator.distributed_type
        self.is_sharded = kind == DistributedType.FSDP
        """Whether each process holds a part of each parameter."""
        if self.is_sharded and not getattr(self._accelerator, "is_fsdp2", False):
            raise ConfigError("accelerate is configured for the first version of FSDP", hint=FSDP_HINT)
        if not (self.is_sharded or kind == DistributedType.NO or kind.value.startswith("MULTI_")):
            raise ConfigError(f"accelerate is configured for {kind.value}, which medcli can't use", hint=FSDP_HINT)
        self.device: torch.device = self._accelerator.device
        self.count: int = self._accelerator.num_processes
        self.rank: int = self._accelerator.process_index
        if self.count != launch.count:
            raise ConfigError(
                f"the launcher started {launch.count} processes, accelerate knows of {self.count}",
                hint="use accelerate launch with its defaults, or torchrun",
            )

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and speaks."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there are no others."""
        return self.count == 1

    def rows(self, global_batch_size: int) -> range:
        """The rows of a batch that this process trains on.

        Raises:
            ConfigError: If the processes' shares would differ.
        """
        share = equal_share(global_batch_size, self.count)
        return range(self.rank * share, (self.rank + 1) * share)

    def prepare(self, objective: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
        """Put a network on the device and wrap it so that gradients are averaged over the processes.

        Names inside the network stay, and the optimiser's parameters are the network's afterwards, too.
        """
        if not self.is_sharded:
            objective.to(self.device)
        prepared: nn.Module = self._accelerator.prepare(objective, optimizer)[0]
        return prepared

    @contextmanager
    def unsynchronised(self, prepared: nn.Module) -> Iterator[None]:
        """Gradients of passes inside the block stay with this process until the next one outside of it."""
        with self._accelerator.no_sync(prepared):
            yield

    def mean(self, value: Tensor) -> Tensor:
        """Average of a tensor over the processes, the same bits in each."""
        if self.is_alone:
            return value
        averaged: Tensor = self._accelerator.reduce(value, reduction="mean")
        return averaged

    def broadcast_object(self, say: Callable[[], Value]) -> Value:
        """What the first process says, or raises, in all of them; the others do not call `say`."""
        if self.is_alone:
            return say()
        words: list[Any] = [None, None]
        if self.is_first:
            try:
                words[0] = say()
            except Exception as err:
                words[1] = err
        broadcast_object_list(words)
        value, problem = words
        if problem is not None:
            raise problem
        said: Value = value
        return said

    def gather(self, values: list[Value]) -> list[Value]:
        """The values of all processes, in their order."""
        everyones: list[Value] = values if self.is_alone else gather_object(values)
        return everyones

    def broadcast(self, value: Tensor | None, like: Tensor) -> Tensor:
        """A tensor of the first process in all of them.

        Args:
            value: The tensor, whole; None in the other processes.
            like: A tensor of its shape and type, perhaps sharded.
        """
        if value is None:
            value = torch.empty(like.shape, dtype=like.dtype)
        received: Tensor = value if self.is_alone else broadcast(value.to(self.device))
        return received

    @contextmanager
    def quiet_ddp_warnings(self) -> Iterator[None]:
        """Leave out remarks of DDP's that ask for nothing: on how it copies gradients, on steps that use everything."""
        with warnings.catch_warnings():
            for remark in ("Grad strides do not match", "find_unused_parameters=True was specified"):
                warnings.filterwarnings("ignore", message=remark)
            yield

    def wait(self) -> None:
        """Go on when all processes are here."""
        self._accelerator.wait_for_everyone()


def _has_gpu() -> bool:
    """Whether there is a device that several processes can train on; Apple's GPUs can't exchange gradients."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return device is not None and device.type != "mps"
