"""Answer to Ctrl-C in any command; one that trains has an answer of its own."""

from __future__ import annotations

import signal
import sys
import threading

from medcli.runtime.interrupts import Answering

PATIENCE_SECS = 0.4
"""Most commands end within this time, and answer themselves."""
ANSWER = "stopping: the step in progress has to end first"


def answer_interrupts() -> None:
    """Write a line on a terminal when the first Ctrl-C arrives and the process is still there shortly after."""
    if sys.stderr.isatty():
        Answering([signal.SIGINT], _answer)


def _answer() -> None:
    threading.Event().wait(PATIENCE_SECS)
    sys.stderr.write(f"\n{ANSWER}\n")
    sys.stderr.flush()
