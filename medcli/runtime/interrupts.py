"""Answer to a signal at once, also while the main thread is in a call that no Python handler interrupts.

Python runs its handlers between two instructions of the main thread, which may be in a network call of a minute. The
signal's number is written to a pipe at once, which a thread reads.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence


class Answering:
    """Call a function from a thread when the first of some signals arrives, until `close`.

    Only the main thread may construct and close it. The signals need a Python handler.

    Args:
        answer: Called once, with nothing.
    """

    def __init__(self, numbers: Sequence[int], answer: Callable[[], None]) -> None:
        self._receiver, self._sender = os.pipe()
        os.set_blocking(self._sender, False)
        self._before = signal.set_wakeup_fd(self._sender, warn_on_full_buffer=False)
        self._numbers, self._answer = frozenset(numbers), answer
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop waiting; whoever was asked before is asked again. A running answer is completed."""
        signal.set_wakeup_fd(self._before)
        os.close(self._sender)
        self._thread.join()

    def _wait(self) -> None:
        is_answered = False
        while number := os.read(self._receiver, 1):
            if number[0] in self._numbers and not is_answered:
                is_answered = True
                self._answer()
        os.close(self._receiver)
