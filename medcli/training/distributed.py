"""Processes of a run and their communication: one alone, or as many as a launcher started.

accelerate wraps the network: unchanged for one process, in DDP for several, and sharded if its own configuration asks
for FSDP. The device is the command's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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
    """Return this process's shard of a tensor, sharing its memory; a plain tensor is returned as is."""
    return value.to_local() if _is_sharded(value) else value


def whole(value: Tensor) -> Tensor:
    """Return the full tensor; a collective call if it is sharded."""
    return value.full_tensor() if _is_sharded(value) else value


@torch.no_grad()
def write(target: Tensor, value: Tensor) -> None:
    """Copy a full tensor into another one, which may be sharded.

    Args:
        target: Changed in place.
        value: Full tensor of the same shape; that of rank 0 is used.
    """
    if _is_sharded(target):
        from torch.distributed.tensor import distribute_tensor  # missing in some builds of torch

        value = distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
    target.copy_(value)


def _is_sharded(value: Tensor) -> TypeGuard[DTensor]:
    return hasattr(value, "full_tensor")


Value = TypeVar("Value")

TIMEOUT = timedelta(hours=3)
"""Timeout of collectives: rank 0 saves checkpoints and draws previews alone."""
FSDP_HINT = "use accelerate launch with its defaults, or with --use_fsdp --fsdp_version 2"


def equal_share(global_batch_size: int, num_processes: int) -> int:
    """Return the number of images of a batch that each process trains on.

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
    """Processes of a launch, seen from this one.

    Args:
        device: This process's device, as `medcli.runtime.device.use_device` returns it.
        has_idle_parameters: Some steps leave trained parameters unused.

    Raises:
        ConfigError: If accelerate is configured for a kind of parallelism that medcli does not support, or several
            processes are to share a GPU.
    """

    def __init__(self, device: torch.device, *, has_idle_parameters: bool) -> None:
        launch = this_process()
        self.device = device
        self._accelerator = Accelerator(
            # Without `cpu` accelerate takes any accelerator there is, and processes without one as separate runs.
            cpu=device.type == "cpu" and (torch.accelerator.is_available() or not launch.is_alone),
            device_placement=False,
            # The run autocasts its blocks itself.
            mixed_precision="no",
            kwargs_handlers=[
                DistributedDataParallelKwargs(find_unused_parameters=has_idle_parameters),
                InitProcessGroupKwargs(timeout=TIMEOUT),
            ],
        )
        kind = self._accelerator.distributed_type
        self.is_sharded = kind == DistributedType.FSDP
        """True: parameters are sharded over processes."""
        if self.is_sharded and not getattr(self._accelerator, "is_fsdp2", False):
            raise ConfigError("accelerate is configured for FSDP version 1", hint=FSDP_HINT)
        if not (self.is_sharded or kind == DistributedType.NO or kind.value.startswith("MULTI_")):
            raise ConfigError(
                f"accelerate is configured for {kind.value}, which medcli does not support", hint=FSDP_HINT
            )
        self.count: int = self._accelerator.num_processes
        self.rank: int = self._accelerator.process_index
        if self.count != launch.count:
            raise ConfigError(
                f"the launcher started {launch.count} processes, accelerate found {self.count}",
                hint="use accelerate launch with its defaults, or torchrun",
            )
        theirs: torch.device = self._accelerator.device
        if not self.is_alone and device.type == "cuda" and device.index != theirs.index:
            raise ConfigError(
                f"--device {device} in {self.count} processes: each needs a GPU of its own",
                hint="use --device cuda, or start one process",
            )

    @property
    def is_first(self) -> bool:
        """True in rank 0, which writes files and reports."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """True for a single process."""
        return self.count == 1

    def rows(self, global_batch_size: int) -> range:
        """Return the rows of a batch that this process trains on.

        Raises:
            ConfigError: If the processes' shares would differ.
        """
        share = equal_share(global_batch_size, self.count)
        return range(self.rank * share, (self.rank + 1) * share)

    def prepare(self, objective: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
        """Move a network to the device and wrap it so that gradients are averaged over processes.

        Parameter names are kept, and the optimizer is updated to the wrapped parameters.
        """
        if not self.is_sharded:
            objective.to(self.device)
        prepared: nn.Module = self._accelerator.prepare(objective, optimizer)[0]
        return prepared

    def unsynchronised(self, prepared: nn.Module) -> AbstractContextManager[None]:
        """Skip the gradient all-reduce of passes inside the block (DDP's `no_sync`)."""
        skipping: AbstractContextManager[None] = self._accelerator.no_sync(prepared)
        return skipping

    def mean(self, value: Tensor) -> Tensor:
        """Average a tensor over processes; the result has the same bits in each."""
        if self.is_alone:
            return value
        averaged: Tensor = self._accelerator.reduce(value, reduction="mean")
        return averaged

    def broadcast_object(self, make: Callable[[], Value]) -> Value:
        """Return, or raise, in all processes what `make` returns or raises in rank 0, the only one that calls it."""
        if self.is_alone:
            return make()
        words: list[Any] = [None, None]
        if self.is_first:
            try:
                words[0] = make()
            except Exception as err:
                words[1] = err
        broadcast_object_list(words)
        value, problem = words
        if problem is not None:
            raise problem
        said: Value = value
        return said

    def gather(self, values: list[Value]) -> list[Value]:
        """Concatenate the lists of all processes, in rank order."""
        everyones: list[Value] = values if self.is_alone else gather_object(values)
        return everyones

    def broadcast(self, value: Tensor | None, like: Tensor) -> Tensor:
        """Broadcast a tensor from rank 0.

        Args:
            value: The full tensor; None in other processes.
            like: A tensor of its shape and data type, which may be sharded.
        """
        if value is None:
            value = torch.empty(like.shape, dtype=like.dtype)
        received: Tensor = value if self.is_alone else broadcast(value.to(self.device))
        return received

    @contextmanager
    def quiet_ddp_warnings(self) -> Iterator[None]:
        """Silence DDP's warnings about gradient strides and about steps that use all parameters."""
        with warnings.catch_warnings():
            for message in ("Grad strides do not match", "find_unused_parameters=True was specified"):
                warnings.filterwarnings("ignore", message=message)
            yield

    def barrier(self) -> None:
        """Wait for all processes."""
        self._accelerator.wait_for_everyone()
