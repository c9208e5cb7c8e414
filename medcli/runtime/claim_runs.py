"""Lengths of the runs of items that processes take from a shared cursor. Torch-free."""

from __future__ import annotations

LONGEST_RUN = 128
"""Items taken at once at most: whoever comes first does not know how many others are still to come."""


def run_length(rest: int, count: int, batch: int, longest: int = LONGEST_RUN) -> int:
    """Return how many of the remaining items a process takes at once: whole batches, fewer towards the end.

    Three quarters of an even share, so that slower processes leave some of theirs to others. Less than a batch would
    save no time, and cost locks.

    Args:
        rest: Items that nobody has taken.
        count: Processes.
        batch: Items that a process completes side by side.
        longest: Most items, if a batch has no more.
    """
    fair = min(3 * rest // (4 * count), max(longest, batch))
    return min(rest, max(batch, fair // batch * batch))
