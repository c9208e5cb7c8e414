"""Rank of this process in its launch, and its cores: the only code that reads ranks.

`torchrun`, `accelerate launch`, MPI and Slurm's `srun` set it in the environment. Nothing else of them is used:
sampling processes share files alone and need no process group.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun, and accelerate on GPUs
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),  # Open MPI
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),  # MPICH and Intel MPI; before Slurm, which may start their daemons
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),  # srun
)
"""Environment variables of rank, number of processes, and rank on this machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A process's part of numbered items that are divided in advance: no process asks another.

    Item i belongs to shard i mod `shards`; of a shard's items, every `ranks`th belongs to one process.
    """

    shard: int = field(default=0, metadata={"min": 0})
    shards: int = field(default=1, metadata={"min": 1})
    rank: int = field(default=0, metadata={"min": 0})
    ranks: int = field(default=1, metadata={"min": 1})

    def of(self, num_items: int) -> range:
        """Return the items of this process."""
        return range(self.shard + self.shards * self.rank, num_items, self.shards * self.ranks)

    def of_launch(self, num_items: int) -> range:
        """Return the items of this process's launch."""
        return range(self.shard, num_items, self.shards)

    def is_of_launch(self, other: Part) -> bool:
        """Return True for the part of another process of this launch."""
        return self != other and self == replace(other, rank=self.rank)

    def overlaps(self, other: Part) -> bool:
        """Return True if an item may belong to both: of one division, only equal parts do."""
        return self == other or (self.shards, self.ranks) != (other.shards, other.ranks)


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """This process of a launch."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    """Rank among the processes of this machine, for choosing a device."""
    shard: int = 0
    """Number of this launch among those that divide the work."""
    num_shards: int = 1

    @property
    def part(self) -> Part:
        """Its part of divided work."""
        return Part(shard=self.shard, shards=self.num_shards, rank=self.rank, ranks=self.count)

    @property
    def is_divided(self) -> bool:
        """True if the work is divided by ranks or shards, so that nobody needs to claim it."""
        return self.count > 1 or self.num_shards > 1

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
        if rank in os.environ and count in os.environ and not (rank == "SLURM_PROCID" and _is_batch_script()):
            number = int(os.environ[rank])
            # srun --mpi=pmi2 sets PMI's ranks without the local one.
            local = int(os.environ.get(local_rank, os.environ.get("SLURM_LOCALID", number)))
            return Processes(rank=number, count=int(os.environ[count]), local_rank=local)
    return Processes()


def _is_batch_script() -> bool:
    """Return True in a script of sbatch outside srun: Slurm gives it rank 0 of all tasks, of which it is none."""
    return "SLURM_JOB_ID" in os.environ and "SLURM_STEP_ID" not in os.environ


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
