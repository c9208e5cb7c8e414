"""Rank of this process in its launch, and its cores: the only code that reads ranks.

`torchrun`, `accelerate launch` and MPI set it in the environment. Nothing else of them is used: sampling processes
share files alone and need no process group.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun, and accelerate on GPUs
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),  # Open MPI
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),  # MPICH and Intel MPI
)
"""Environment variables of rank, number of processes, and rank on this machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """This process of a launch."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    """Rank among the processes of this machine, for choosing a device."""

    @property
    def is_first(self) -> bool:
        """True for rank 0, which shows progress and the result."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """True if there is one process."""
        return self.count == 1


def this_process() -> Processes:
    """Read the launcher's environment variables; without a launcher, one process."""
    for rank, count, local_rank in LAUNCHERS:
        if rank in os.environ and count in os.environ:
            number = int(os.environ[rank])
            local = int(os.environ.get(local_rank, number))
            return Processes(rank=number, count=int(os.environ[count]), local_rank=local)
    return Processes()


def num_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def launch_remark() -> str | None:
    """Return a remark on a launch that started fewer processes than requested."""
    # accelerate sets the address of the process group when several processes were requested.
    is_asked_for_several = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    if is_asked_for_several and this_process().is_alone:
        return "accelerate starts several CPU processes through MPI only, and has started one: torchrun starts several"
    return None
