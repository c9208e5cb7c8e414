"""Results of checks of a machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "missing", "remark"]
"""Status: `missing` disables something, `remark` is information."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Result of one check."""

    name: str
    status: Status
    found: str
    """Short description."""
    disables: str | None = None
    """Consequence of what is missing; None: nothing is missing."""
    remedy: str | None = None
    """Instructions for installing or fixing it."""


Check = Callable[[], Iterator[Finding]]
"""Run one check and return its findings; it imports what it needs itself."""
