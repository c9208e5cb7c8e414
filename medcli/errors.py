"""Errors a user can act on, and the exit code each one carries."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the program."""

    DONE = 0
    BUG = 1
    USAGE = 2
    CHECKPOINT = 3
    DATA = 4
    ENVIRONMENT = 5
    CHECK_FAILED = 6
    INTERRUPTED = 130


class MedcliError(Exception):
    """Base class of errors that the user can fix.

    Args:
        message: What is wrong, the offending value and what was expected, in one line.
        hint: One command or edit that fixes it.
    """

    exit_code = ExitCode.BUG

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(MedcliError):
    """Wrong usage or an impossible combination of settings."""

    exit_code = ExitCode.USAGE


class CheckpointError(MedcliError):
    """A checkpoint is missing, damaged or of the wrong kind."""

    exit_code = ExitCode.CHECKPOINT


class DataError(MedcliError):
    """Images, labels or reference statistics are missing or unusable."""

    exit_code = ExitCode.DATA


class EnvironmentProblem(MedcliError):
    """The machine lacks something: a device, a package, disk space, a writable folder."""

    exit_code = ExitCode.ENVIRONMENT


class CheckFailed(MedcliError):
    """A requested check failed."""

    exit_code = ExitCode.CHECK_FAILED


def require_complete(what: str, table: Iterable[str], choices: Iterable[str]) -> None:
    """Check on import that a table holds exactly the declared choices.

    Args:
        what: Name of a choice, for the message.
        table: The choices that are implemented: a mapping from each to its implementation.
        choices: The declared choices.

    Raises:
        TypeError: If a choice has no implementation, or an implementation is not declared.
    """
    declared, implemented = set(choices), set(table)
    if missing := sorted(declared - implemented):
        raise TypeError(f"{what} {missing[0]!r} is declared but not implemented: add it to the table")
    if extra := sorted(implemented - declared):
        raise TypeError(f"{what} {extra[0]!r} is implemented but not declared: add it to the choices")


def listed(names: list[str], limit: int = 5) -> str:
    """Join names for a message, cutting long lists: `a, b, c, d, e and 23 more`."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
