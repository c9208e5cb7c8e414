"""Reporter of progress and remarks, for code below the command line, which prints nothing."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Receives progress and remarks: the command line shows them."""

    def progress(self, done: float, total: int, unit: str, detail: str = "") -> None:
        """Report that `done` of `total` units (images, tensors, steps) are finished.

        Args:
            done: Units; a fraction of one counts too.
            total: All units.
            unit: Their name in the plural.
            detail: Latest measurements, such as the loss.
        """

    def note(self, text: str) -> None:
        """Report one line for the user."""

    def warn(self, text: str) -> None:
        """Report one line of something that makes the result worse or not what it seems."""


class Silent:
    """A reporter that ignores everything."""

    def progress(self, done: float, total: int, unit: str, detail: str = "") -> None:
        """Ignore progress."""

    def note(self, text: str) -> None:
        """Ignore the remark."""

    def warn(self, text: str) -> None:
        """Ignore the warning."""
