"""Check and format ladders, which are rising mediator counts, and lists of blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medcli.errors import ConfigError


def check_ladder(mediators: tuple[int, ...]) -> None:
    """Refuse a ladder that is not made of rising perfect squares.

    Raises:
        ConfigError: Naming the offending count.
    """
    for count in mediators:
        if count < 1 or math.isqrt(count) ** 2 != count:
            root = max(1, math.isqrt(max(count, 0)))
            raise ConfigError(
                f"mediator count {count} is not a perfect square (queries are pooled to a square grid)",
                hint=f"use {root**2} or {(root + 1) ** 2}",
            )
    if list(mediators) != sorted(set(mediators)):
        raise ConfigError(
            f"the mediator ladder must rise, got {listing(mediators)}",
            hint=f"--mediators {listing(tuple(sorted(set(mediators))))}",
        )


def check_rungs(counts: tuple[int, ...]) -> None:
    """Refuse the counts of a schedule that are no ladder; full attention (0) may stand above its last count.

    Raises:
        ConfigError: Naming the offending count.
    """
    if 0 in counts[:-1]:
        raise ConfigError(
            "full attention costs the most, so it can only end a ladder", hint="write it like --mediators 4,16,full"
        )
    check_ladder(counts[:-1] if counts and counts[-1] == 0 else counts)


def listing(numbers: tuple[int, ...]) -> str:
    """Format numbers as the command line takes them: `4,16,64`."""
    return ",".join(map(str, numbers))


def ranges(numbers: Sequence[int]) -> str:
    """Format rising block numbers as `--layers` takes them: `0-3,8`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
