"""Which of the processes of a launch this one is: the only code that knows ranks.

`torchrun` and `accelerate launch` say so in the environment. Nothing else is asked of them: sampling processes share
files alone and need no process group.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """A launch as one of its processes sees it."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    """Number among the processes of this machine, for choosing a device."""

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all: it shows progress and the result."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there are no others."""
        return self.count == 1


def this_process() -> Processes:
    """Read the environment a launcher has set; without a launcher, one process alone."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Processes()
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return Processes(rank=rank, count=count, local_rank=int(os.environ.get("LOCAL_RANK", rank)))
