"""Which process of a launch says what went wrong: the first; another one where the first goes on."""

from __future__ import annotations

import time
from collections.abc import Callable

from medcli.errors import ExitCode, MedcliError
from medcli.runtime.processes import Processes

PATIENCE_SECS = 10.0
"""Most errors meet all processes of a launch, and the launcher stops the others once the first has left."""


def is_said_elsewhere(problem: MedcliError, process: Processes, wait: Callable[[float], None] | None = None) -> bool:
    """Whether another process says it.

    The first process never waits. Any other does, for the launcher to stop it: what is still there afterwards has a
    trouble of its own, such as a file that its machine alone can't read.

    Args:
        problem: What stopped this process.
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
