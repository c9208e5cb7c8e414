"""What looking at a machine comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "missing", "remark"]
"""`missing` takes something away from the user, `remark` is worth knowing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    status: Status
    found: str
    """What there is, in a few words."""
    disables: str | None = None
    """What its lack takes away; None if nothing is missing."""
    remedy: str | None = None
    """How to get it."""


Check = Callable[[], Iterator[Finding]]
"""Looks at one thing, which may come to several findings. What it needs it imports itself."""
