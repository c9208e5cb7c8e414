"""How work below the command line tells what it is doing, without printing."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Receives progress and remarks; the command line shows them, a notebook may ignore them."""

    def progress(self, done: int, total: int, unit: str) -> None:
        """Say that `done` of `total` units (images, tensors, steps) are finished."""

    def note(self, text: str) -> None:
        """Say one line a user should read, such as a warning or what to run next."""


class Silent:
    """A reporter that says nothing."""

    def progress(self, done: int, total: int, unit: str) -> None:
        """Ignore progress."""

    def note(self, text: str) -> None:
        """Ignore the remark."""
