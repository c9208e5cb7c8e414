"""A score and how far it may be off."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A value, its standard error, and how the error was found."""

    value: float
    standard_error: float | None = None
    """In the units of the value; None where the samples do not tell."""
    method: str = ""
    """How the error was computed, for reports."""
