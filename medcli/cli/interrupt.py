"""Answer to Ctrl-C at once, also while the network computes and Python's own handler has to wait."""

from __future__ import annotations

import os
import signal
import sys
import threading

PATIENCE_SECS = 0.4
"""Most commands end within this time, and answer themselves."""
ANSWER = "stopping: the step in progress has to end first"


def answer_interrupts() -> None:
    """Write a line on a terminal when the first Ctrl-C arrives and the process is still there shortly after.

    Python runs its handlers between two instructions of the main thread, which may be in a network call of a minute.
    The signal's number is written to a pipe at once, which a thread reads.
    """
    if not sys.stderr.isatty():
        return
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)
    signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    threading.Thread(target=_answer, args=(receiver,), daemon=True).start()


def _answer(receiver: int) -> None:
    while number := os.read(receiver, 1):
        if number[0] == signal.SIGINT:
            threading.Event().wait(PATIENCE_SECS)
            sys.stderr.write(f"\n{ANSWER}\n")
            sys.stderr.flush()
            return
