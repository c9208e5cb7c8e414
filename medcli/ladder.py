"""The ladder: the mediator counts one model offers."""

from __future__ import annotations

import math

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
            f"the mediator ladder must rise, got {','.join(map(str, mediators))}",
            hint=f"--mediators {','.join(map(str, sorted(set(mediators))))}",
        )
