"""Exceptions as messages: a message, a hint and an exit code; and the process of a launch that shows them."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable

import typer

from medcli.errors import ConfigError, EnvironmentProblem, ExitCode, MedcliError
from medcli.runtime.processes import Processes

# Typer names this class only from 0.28 on; its child BadParameter has always been public.
USAGE_ERROR: type[Exception] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

BUG_HINT = "this is a bug in medcli: please report the lines above and your command in its issue tracker"

DISK_HINTS = {
    errno.ENOSPC: "free some space, or choose another place with --output",
    errno.EDQUOT: "free some of your quota, or choose another place with --output",
    errno.EROFS: "choose a writable place with --output",
    errno.EACCES: "check who may read and write there, or choose another place",
    errno.EPERM: "check who may read and write there, or choose another place",
    errno.ENAMETOOLONG: "use a shorter name",
}
"""Hints for failures of the file system that no workflow explains better."""
PATH_HINT = "look at what is in that place, or choose another one"
"""For the others that name a path, such as a folder or a circle of links in place of a file."""

MEMORY_HINT = "lower --batch-size, or use --dtype bf16"
MEMORY_HINTS = {"finetune": "lower --micro-batch-size, or add --checkpoint-activations; --dry-run estimates both"}
"""For commands whose batch has another name."""
INTERRUPT_HINT = "nothing half-written is left; run the same command again"
INTERRUPT_HINTS = {
    "sample": "finished images are kept, and the same command generates the rest",
    "latents": "encoded images are kept, and the same command encodes the rest",
}
"""For commands that resume; training names its step."""
PATIENCE_SECS = 10.0
"""Most errors occur in all processes of a launch, and the launcher stops the rest once the first has ended."""


class Interrupted(MedcliError):
    """The user stopped the run."""

    exit_code = ExitCode.INTERRUPTED


def problem_of(err: BaseException, *, command: str = "") -> MedcliError:
    """Turn an exception into a message for the user.

    Args:
        err: The exception.
        command: Name of the command that ran, for a hint at its help; empty for the bare program.

    Returns:
        The error itself if it was written for the user; one with exit code `BUG` for the unexpected.
    """
    if isinstance(err, MedcliError):
        return err
    if isinstance(err, USAGE_ERROR):
        return _usage_problem(err, f"medcli {command}".strip())
    interrupt = _interrupt_behind(err)
    if interrupt is not None or isinstance(err, typer.Abort):
        text = str(interrupt or "")  # of one that a workflow raised, what is saved
        return Interrupted("interrupted", hint=text or INTERRUPT_HINTS.get(command, INTERRUPT_HINT))
    if isinstance(err, OSError) and err.errno and (err.errno in DISK_HINTS or err.filename):
        where = f": {err.filename}" if err.filename else ""
        hint = DISK_HINTS.get(err.errno, PATH_HINT)
        return EnvironmentProblem(f"{os.strerror(err.errno).lower()}{where}", hint=hint)
    if _is_out_of_memory(err):
        return EnvironmentProblem("out of memory", hint=MEMORY_HINTS.get(command, MEMORY_HINT))
    return MedcliError(f"unexpected {type(err).__name__}: {err}", hint=BUG_HINT)


def _usage_problem(err: Exception, program: str) -> ConfigError:
    """Rephrase Typer's message about the command line."""
    near = getattr(err, "possibilities", None) or []
    # Near spellings go into the hint; the bare message is then enough.
    message = str(err.message if near else err.format_message())  # type: ignore[attr-defined]
    message = message[:1].lower() + message[1:].strip().rstrip(".")
    return ConfigError(message, hint=f"did you mean {near[0]}?" if near else f"see {program} --help")


def _interrupt_behind(err: BaseException | None) -> KeyboardInterrupt | None:
    """Return the Ctrl-C behind an exception: an import that is cut off fails in its own way."""
    seen: set[int] = set()
    while err is not None and id(err) not in seen:
        if isinstance(err, KeyboardInterrupt):
            return err
        seen.add(id(err))
        err = err.__cause__ or err.__context__
    return None


def _is_out_of_memory(err: BaseException) -> bool:
    """Recognise Python's and torch's exceptions; torch itself may not be loaded."""
    if isinstance(err, MemoryError) or type(err).__name__ == "OutOfMemoryError":
        return True
    return isinstance(err, RuntimeError) and "can't allocate memory" in str(err)


def is_reported_elsewhere(
    problem: MedcliError, process: Processes, wait: Callable[[float], None] | None = None
) -> bool:
    """Check whether another process of the launch shows this error.

    The first process never waits. Any other does, for the launcher to stop it: a process that is still there afterwards
    has an error of its own, such as a file that only its machine can't read.

    Args:
        problem: The error of this process.
        process: This process.
        wait: Replaces `time.sleep`.
    """
    if process.is_first:
        return False
    if problem.exit_code == ExitCode.INTERRUPTED:
        return True
    try:
        (wait or time.sleep)(PATIENCE_SECS)
    except KeyboardInterrupt:
        return True
    return False
